#include "vmm/x86/aml.h"

#include <array>
#include <charconv>
#include <cstddef>

#include "base/check.h"

namespace vireo::x86::aml {
namespace {

// ACPI 6.3 §20.3, "AML Byte Stream Byte Values".
constexpr uint8_t kZeroOp = 0x00;
constexpr uint8_t kOneOp = 0x01;
constexpr uint8_t kNameOp = 0x08;
constexpr uint8_t kBytePrefix = 0x0a;
constexpr uint8_t kWordPrefix = 0x0b;
constexpr uint8_t kDwordPrefix = 0x0c;
constexpr uint8_t kStringPrefix = 0x0d;
constexpr uint8_t kQwordPrefix = 0x0e;
constexpr uint8_t kScopeOp = 0x10;
constexpr uint8_t kBufferOp = 0x11;
constexpr uint8_t kPackageOp = 0x12;
constexpr uint8_t kMethodOp = 0x14;
constexpr uint8_t kDualNamePrefix = 0x2e;
constexpr uint8_t kMultiNamePrefix = 0x2f;
constexpr uint8_t kExtOpPrefix = 0x5b;
constexpr uint8_t kLocal0Op = 0x60;
constexpr uint8_t kArg0Op = 0x68;
constexpr uint8_t kStoreOp = 0x70;
constexpr uint8_t kAndOp = 0x7b;
constexpr uint8_t kOrOp = 0x7d;
constexpr uint8_t kExtOpRegionOp = 0x80;
constexpr uint8_t kExtFieldOp = 0x81;
constexpr uint8_t kExtDeviceOp = 0x82;
constexpr uint8_t kNotifyOp = 0x86;
constexpr uint8_t kCreateDwordFieldOp = 0x8a;
constexpr uint8_t kLnotOp = 0x92;
constexpr uint8_t kLequalOp = 0x93;
constexpr uint8_t kIfOp = 0xa0;
constexpr uint8_t kElseOp = 0xa1;
constexpr uint8_t kReturnOp = 0xa4;

constexpr uint8_t kMethodSerialized = 1 << 3;
constexpr size_t kNameSegmentBytes = 4;

void Append(Term& out, const Term& term) { out.insert(out.end(), term.begin(), term.end()); }

void AppendLittleEndian(Term& out, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out.push_back(static_cast<uint8_t>(value >> (8 * i)));
}

// §20.2.4, "Package Length Encoding": up to 63 in one byte; beyond that the first byte tells how
// many follow and holds the lowest 4 bits.
Term EncodeLength(uint64_t length, int following) {
  Term out;
  if (following == 0) {
    out.push_back(static_cast<uint8_t>(length));
    return out;
  }
  out.push_back(static_cast<uint8_t>((following << 6) | (length & 0xf)));
  AppendLittleEndian(out, length >> 4, following);
  return out;
}

int FollowingBytes(uint64_t length) {
  if (length < (1u << 6)) return 0;
  if (length < (1u << 12)) return 1;
  if (length < (1u << 20)) return 2;
  VIREO_CHECK(length < (1u << 28), "a package length has 28 bits");
  return 3;
}

// A package's length counts its own encoding.
Term WithLength(const Term& body) {
  int following = FollowingBytes(body.size() + 1);
  following = FollowingBytes(body.size() + 1 + static_cast<size_t>(following));
  Term out = EncodeLength(body.size() + 1 + static_cast<size_t>(following), following);
  Append(out, body);
  return out;
}

// A field unit's length does not: it counts bits.
Term FieldLength(uint64_t bits) { return EncodeLength(bits, FollowingBytes(bits)); }

Term Block(std::initializer_list<uint8_t> opcode, const Term& head, std::span<const Term> body) {
  Term inside = head;
  for (const Term& term : body) Append(inside, term);
  Term out(opcode);
  Append(out, WithLength(inside));
  return out;
}

bool IsLeadNameChar(char c) { return (c >= 'A' && c <= 'Z') || c == '_'; }
bool IsNameChar(char c) { return IsLeadNameChar(c) || (c >= '0' && c <= '9'); }

Term NameSegment(std::string_view segment) {
  VIREO_CHECK(!segment.empty() && segment.size() <= kNameSegmentBytes, "a name of 1 to 4 letters");
  VIREO_CHECK(IsLeadNameChar(segment[0]));
  Term out;
  for (char c : segment) {
    VIREO_CHECK(IsNameChar(c));
    out.push_back(static_cast<uint8_t>(c));
  }
  out.resize(kNameSegmentBytes, '_');
  return out;
}

uint8_t HexDigit(char c) {
  uint8_t value = 0;
  const std::from_chars_result result = std::from_chars(&c, &c + 1, value, 16);
  VIREO_CHECK(result.ec == std::errc(), "a hexadecimal digit");
  return value;
}

Term Binary(uint8_t opcode, const Term& a, const Term& b, const Term& target) {
  Term out = {opcode};
  Append(out, a);
  Append(out, b);
  Append(out, target);
  return out;
}

// §6.4.3.5, "Address Space Resource Descriptors": one layout in three widths.
constexpr uint8_t kWordAddress = 0x88;
constexpr uint8_t kDwordAddress = 0x87;
constexpr uint8_t kQwordAddress = 0x8a;
constexpr uint8_t kTypeMemory = 0;
constexpr uint8_t kTypeIo = 1;
constexpr uint8_t kTypeBus = 2;
constexpr uint8_t kMinAndMaxFixed = 0x0c;

Term AddressWindow(uint8_t tag, int width, uint8_t type, uint8_t type_flags, uint64_t first,
                   uint64_t last) {
  VIREO_CHECK(first <= last);
  Term out = {tag};
  AppendLittleEndian(out, static_cast<uint64_t>(3 + 5 * width), 2);
  out.push_back(type);
  out.push_back(kMinAndMaxFixed);
  out.push_back(type_flags);
  AppendLittleEndian(out, 0, width);  // Granularity.
  AppendLittleEndian(out, first, width);
  AppendLittleEndian(out, last, width);
  AppendLittleEndian(out, 0, width);  // Translation.
  AppendLittleEndian(out, last - first + 1, width);
  return out;
}

}  // namespace

Term Concat(std::span<const Term> terms) {
  Term out;
  for (const Term& term : terms) Append(out, term);
  return out;
}

Term NameString(std::string_view path) {
  Term out;
  while (!path.empty() && (path[0] == '\\' || path[0] == '^')) {
    out.push_back(static_cast<uint8_t>(path[0]));
    path.remove_prefix(1);
  }
  Term segments;
  size_t count = 0;
  while (!path.empty()) {
    const size_t dot = std::min(path.find('.'), path.size());
    Append(segments, NameSegment(path.substr(0, dot)));
    path.remove_prefix(std::min(dot + 1, path.size()));
    ++count;
  }
  if (count == 0) out.push_back(kZeroOp);  // NullName
  if (count == 2) out.push_back(kDualNamePrefix);
  if (count > 2) {
    out.push_back(kMultiNamePrefix);
    out.push_back(static_cast<uint8_t>(count));
  }
  Append(out, segments);
  return out;
}

Term Path(std::string_view path) { return NameString(path); }

Term Integer(uint64_t value) {
  Term out;
  if (value == 0) return {kZeroOp};
  if (value == 1) return {kOneOp};
  if (value <= 0xff) {
    out.push_back(kBytePrefix);
    AppendLittleEndian(out, value, 1);
  } else if (value <= 0xffff) {
    out.push_back(kWordPrefix);
    AppendLittleEndian(out, value, 2);
  } else if (value <= 0xffffffff) {
    out.push_back(kDwordPrefix);
    AppendLittleEndian(out, value, 4);
  } else {
    out.push_back(kQwordPrefix);
    AppendLittleEndian(out, value, 8);
  }
  return out;
}

Term String(std::string_view text) {
  Term out = {kStringPrefix};
  for (char c : text) {
    VIREO_CHECK(c > 0, "ASCII without NUL");
    out.push_back(static_cast<uint8_t>(c));
  }
  out.push_back(0);
  return out;
}

Term EisaId(std::string_view id) {
  // ACPI 6.3 §19.3.4, "ASL Data Types": three letters of 5 bits and four hexadecimal digits, high
  // byte first.
  VIREO_CHECK(id.size() == 7);
  uint32_t packed = 0;
  for (int i = 0; i < 3; ++i) packed = (packed << 5) | static_cast<uint32_t>(id[i] - 0x40);
  for (int i = 3; i < 7; ++i) packed = (packed << 4) | HexDigit(id[i]);
  Term out = {kDwordPrefix};
  AppendLittleEndian(out, __builtin_bswap32(packed), 4);
  return out;
}

Term Buffer(std::span<const uint8_t> bytes) {
  Term data(bytes.begin(), bytes.end());
  return Block({kBufferOp}, Integer(bytes.size()), {&data, 1});
}

Term Package(std::span<const Term> elements) {
  VIREO_CHECK(elements.size() <= 255);
  return Block({kPackageOp}, {static_cast<uint8_t>(elements.size())}, elements);
}

Term Uuid(std::string_view uuid) {
  // Bytes of the buffer, by the place of their digits in the text.
  constexpr std::array<uint8_t, 16> kDigits = {6,  4,  2,  0,  11, 9,  16, 14,
                                               19, 21, 24, 26, 28, 30, 32, 34};
  VIREO_CHECK(uuid.size() == 36);
  std::array<uint8_t, 16> bytes;
  for (size_t i = 0; i < bytes.size(); ++i) {
    const size_t at = kDigits[i];
    bytes[i] = static_cast<uint8_t>((HexDigit(uuid[at]) << 4) | HexDigit(uuid[at + 1]));
  }
  return Buffer(bytes);
}

Term Name(std::string_view path, const Term& value) {
  Term out = {kNameOp};
  Append(out, NameString(path));
  Append(out, value);
  return out;
}

Term Scope(std::string_view path, std::span<const Term> body) {
  return Block({kScopeOp}, NameString(path), body);
}

Term Device(std::string_view path, std::span<const Term> body) {
  return Block({kExtOpPrefix, kExtDeviceOp}, NameString(path), body);
}

Term Method(std::string_view path, uint8_t arguments, std::span<const Term> body) {
  VIREO_CHECK(arguments <= 7);
  Term head = NameString(path);
  head.push_back(arguments | kMethodSerialized);
  return Block({kMethodOp}, head, body);
}

Term OperationRegion(std::string_view name, Space space, uint64_t offset, uint64_t bytes) {
  Term out = {kExtOpPrefix, kExtOpRegionOp};
  Append(out, NameString(name));
  out.push_back(static_cast<uint8_t>(space));
  Append(out, Integer(offset));
  Append(out, Integer(bytes));
  return out;
}

Term Field(std::string_view region, FieldAccess access, std::span<const FieldUnit> units) {
  Term head = NameString(region);
  head.push_back(static_cast<uint8_t>(access));  // No lock, preserve what is not written.
  for (const FieldUnit& unit : units) {
    Append(head, unit.name.empty() ? Term{kZeroOp} : NameSegment(unit.name));
    Append(head, FieldLength(unit.bits));
  }
  return Block({kExtOpPrefix, kExtFieldOp}, head, {});
}

Term CreateDwordField(const Term& buffer, uint64_t byte_offset, std::string_view name) {
  Term out = {kCreateDwordFieldOp};
  Append(out, buffer);
  Append(out, Integer(byte_offset));
  Append(out, NameString(name));
  return out;
}

Term Arg(uint8_t index) {
  VIREO_CHECK(index <= 6);
  return {static_cast<uint8_t>(kArg0Op + index)};
}

Term Local(uint8_t index) {
  VIREO_CHECK(index <= 7);
  return {static_cast<uint8_t>(kLocal0Op + index)};
}

Term Store(const Term& value, const Term& target) {
  Term out = {kStoreOp};
  Append(out, value);
  Append(out, target);
  return out;
}

Term And(const Term& a, const Term& b, const Term& target) { return Binary(kAndOp, a, b, target); }
Term Or(const Term& a, const Term& b, const Term& target) { return Binary(kOrOp, a, b, target); }
Term LEqual(const Term& a, const Term& b) { return Binary(kLequalOp, a, b, {}); }

Term LNotEqual(const Term& a, const Term& b) {
  Term out = {kLnotOp};
  Append(out, LEqual(a, b));
  return out;
}

Term If(const Term& condition, std::span<const Term> body) {
  return Block({kIfOp}, condition, body);
}

Term Else(std::span<const Term> body) { return Block({kElseOp}, {}, body); }

Term Return(const Term& value) {
  Term out = {kReturnOp};
  Append(out, value);
  return out;
}

Term Notify(std::string_view object, uint64_t value) {
  Term out = {kNotifyOp};
  Append(out, NameString(object));
  Append(out, Integer(value));
  return out;
}

Term ResourceTemplate(std::span<const Term> descriptors) {
  Term bytes = Concat(descriptors);
  bytes.push_back(0x79);  // End tag.
  bytes.push_back(0);     // A checksum of 0 is not checked.
  return Buffer(bytes);
}

Term Io(uint16_t port, uint8_t length) {
  Term out = {0x47, 0x01};  // All 16 address lines are decoded.
  AppendLittleEndian(out, port, 2);
  AppendLittleEndian(out, port, 2);
  out.push_back(1);  // Alignment.
  out.push_back(length);
  return out;
}

Term Irq(uint8_t irq) {
  VIREO_CHECK(irq < 16);
  Term out = {0x22};
  AppendLittleEndian(out, uint64_t{1} << irq, 2);
  return out;
}

Term Memory32Fixed(uint32_t base, uint32_t length) {
  Term out = {0x86, 9, 0, 1};  // Length of what follows; read and write.
  AppendLittleEndian(out, base, 4);
  AppendLittleEndian(out, length, 4);
  return out;
}

Term BusNumbers(uint16_t first, uint16_t last) {
  return AddressWindow(kWordAddress, 2, kTypeBus, 0, first, last);
}

Term IoWindow(uint16_t first, uint16_t last) {
  constexpr uint8_t kEntireRange = 3;
  return AddressWindow(kWordAddress, 2, kTypeIo, kEntireRange, first, last);
}

Term MemoryWindow32(uint32_t first, uint32_t last) {
  constexpr uint8_t kReadWrite = 1;
  return AddressWindow(kDwordAddress, 4, kTypeMemory, kReadWrite, first, last);
}

Term MemoryWindow64(uint64_t first, uint64_t last) {
  constexpr uint8_t kReadWrite = 1;
  return AddressWindow(kQwordAddress, 8, kTypeMemory, kReadWrite, first, last);
}

}  // namespace vireo::x86::aml
