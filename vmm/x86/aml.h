// A small AML builder: each function gives the byte code of one term, and terms nest as in ASL.
//
//     aml::Device("COM1", {aml::Name("_HID", aml::EisaId("PNP0501")),
//                          aml::Name("_CRS", aml::ResourceTemplate({aml::Io(0x3f8, 8),
//                          aml::Irq(4)}))})
//
// ACPI 6.3 chapter 20 (encoding), chapter 6.4 (resource descriptors). Names are checked by
// VIREO_CHECK: they are ours, not a user's.

#ifndef VIREO_VMM_X86_AML_H_
#define VIREO_VMM_X86_AML_H_

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>
#include <vector>

namespace vireo::x86::aml {

using Term = std::vector<uint8_t>;

Term Concat(std::span<const Term> terms);

// "\\_SB_.PCI0" or "_CRS": segments of up to 4 letters, padded with '_'.
Term NameString(std::string_view path);

// Data.
Term Integer(uint64_t value);
Term String(std::string_view text);
Term EisaId(std::string_view id);
Term Buffer(std::span<const uint8_t> bytes);
Term Package(std::span<const Term> elements);
// A Buffer of 16 bytes in the mixed-endian order of ToUUID:
// Uuid("33db4d5b-1ff7-401c-9657-7441c03dd766").
Term Uuid(std::string_view uuid);

// Declarations.
Term Name(std::string_view path, const Term& value);
Term Scope(std::string_view path, std::span<const Term> body);
Term Device(std::string_view path, std::span<const Term> body);
// Serialized, so that the body may declare names.
Term Method(std::string_view path, uint8_t arguments, std::span<const Term> body);
enum class Space : uint8_t { kMemory = 0, kIo = 1 };
Term OperationRegion(std::string_view name, Space space, uint64_t offset, uint64_t bytes);
struct FieldUnit {
  std::string_view name;  // Empty: a gap.
  uint32_t bits;
};
enum class FieldAccess : uint8_t { kAny = 0, kByte = 1, kWord = 2, kDword = 3 };
Term Field(std::string_view region, FieldAccess access, std::span<const FieldUnit> units);
Term CreateDwordField(const Term& buffer, uint64_t byte_offset, std::string_view name);

// Expressions and statements.
Term Arg(uint8_t index);
Term Local(uint8_t index);
Term Store(const Term& value, const Term& target);
// A named object, or anything else by its path.
Term Path(std::string_view path);
Term And(const Term& a, const Term& b, const Term& target);
Term Or(const Term& a, const Term& b, const Term& target);
Term LEqual(const Term& a, const Term& b);
Term LNotEqual(const Term& a, const Term& b);
Term If(const Term& condition, std::span<const Term> body);
Term Else(std::span<const Term> body);
Term Return(const Term& value);
Term Notify(std::string_view object, uint64_t value);

// Resources.
Term ResourceTemplate(std::span<const Term> descriptors);  // A Buffer.
Term Io(uint16_t port, uint8_t length);
Term Irq(uint8_t irq);  // Edge, active high, exclusive: an ISA interrupt.
Term Memory32Fixed(uint32_t base, uint32_t length);
Term BusNumbers(uint16_t first, uint16_t last);
Term IoWindow(uint16_t first, uint16_t last);
Term MemoryWindow32(uint32_t first, uint32_t last);
Term MemoryWindow64(uint64_t first, uint64_t last);

// Braced lists, for which std::span has no constructor.
inline Term ResourceTemplate(std::initializer_list<Term> d) {
  return ResourceTemplate(std::span(d.begin(), d.size()));
}
inline Term Concat(std::initializer_list<Term> t) { return Concat(std::span(t.begin(), t.size())); }
inline Term Package(std::initializer_list<Term> e) {
  return Package(std::span(e.begin(), e.size()));
}
inline Term Buffer(std::initializer_list<uint8_t> b) {
  return Buffer(std::span(b.begin(), b.size()));
}
inline Term Scope(std::string_view path, std::initializer_list<Term> b) {
  return Scope(path, std::span(b.begin(), b.size()));
}
inline Term Device(std::string_view path, std::initializer_list<Term> b) {
  return Device(path, std::span(b.begin(), b.size()));
}
inline Term Method(std::string_view path, uint8_t arguments, std::initializer_list<Term> b) {
  return Method(path, arguments, std::span(b.begin(), b.size()));
}
inline Term Field(std::string_view region, FieldAccess access, std::initializer_list<FieldUnit> u) {
  return Field(region, access, std::span(u.begin(), u.size()));
}
inline Term If(const Term& condition, std::initializer_list<Term> b) {
  return If(condition, std::span(b.begin(), b.size()));
}
inline Term Else(std::initializer_list<Term> b) { return Else(std::span(b.begin(), b.size())); }

}  // namespace vireo::x86::aml

#endif  // VIREO_VMM_X86_AML_H_
