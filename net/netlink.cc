#include "net/netlink.h"

#include <linux/if.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status.h"

namespace vireo {
namespace {

constexpr size_t kHeaderSize = NLMSG_HDRLEN;
// Larger than any answer about one interface.
constexpr size_t kAnswerSize = 64 << 10;

// The next attribute of a list, cut off it; false at the end or where the list makes no sense.
struct AttributeView {
  uint16_t type = 0;
  std::span<const uint8_t> value;
};
bool NextAttribute(std::span<const uint8_t>* list, AttributeView* attribute) {
  rtattr header;
  if (list->size() < sizeof(header)) return false;
  std::memcpy(&header, list->data(), sizeof(header));
  if (header.rta_len < RTA_LENGTH(0) || header.rta_len > list->size()) return false;
  attribute->type = header.rta_type & NLA_TYPE_MASK;
  attribute->value = list->subspan(RTA_LENGTH(0), header.rta_len - RTA_LENGTH(0));
  *list = list->subspan(std::min<size_t>(RTA_ALIGN(header.rta_len), list->size()));
  return true;
}

uint32_t ToU32(std::span<const uint8_t> value) {
  uint32_t number = 0;
  if (value.size() == sizeof(number)) std::memcpy(&number, value.data(), sizeof(number));
  return number;
}

std::string ToText(std::span<const uint8_t> value) {
  const auto end = std::find(value.begin(), value.end(), 0);
  return std::string(value.begin(), end);
}

absl::StatusOr<Link> ParseLink(std::span<const uint8_t> answer) {
  ifinfomsg info;
  if (answer.size() < kHeaderSize + NLMSG_ALIGN(sizeof(info))) {
    return absl::InternalError("netlink: the answer to RTM_GETLINK is too short");
  }
  std::memcpy(&info, answer.data() + kHeaderSize, sizeof(info));
  Link link = {.index = info.ifi_index, .up = (info.ifi_flags & IFF_UP) != 0};
  std::span<const uint8_t> list = answer.subspan(kHeaderSize + NLMSG_ALIGN(sizeof(info)));
  AttributeView attribute;
  while (NextAttribute(&list, &attribute)) {
    if (attribute.type == IFLA_IFNAME) {
      link.name = ToText(attribute.value);
    } else if (attribute.type == IFLA_MTU) {
      link.mtu = ToU32(attribute.value);
    } else if (attribute.type == IFLA_MASTER) {
      link.master = static_cast<int>(ToU32(attribute.value));
    } else if (attribute.type == IFLA_ADDRESS && attribute.value.size() == 6) {
      MacAddress::Bytes bytes;
      std::copy(attribute.value.begin(), attribute.value.end(), bytes.begin());
      link.mac = MacAddress(bytes);
    } else if (attribute.type == IFLA_LINKINFO) {
      std::span<const uint8_t> nested = attribute.value;
      AttributeView inner;
      while (NextAttribute(&nested, &inner)) {
        if (inner.type == IFLA_INFO_KIND) link.kind = ToText(inner.value);
      }
    }
  }
  return link;
}

}  // namespace

NetlinkRequest::NetlinkRequest(uint16_t type, uint16_t flags) : bytes_(kHeaderSize) {
  const nlmsghdr header = {.nlmsg_len = 0,
                           .nlmsg_type = type,
                           .nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | NLM_F_ACK | flags),
                           .nlmsg_seq = 0,
                           .nlmsg_pid = 0};
  std::memcpy(bytes_.data(), &header, sizeof(header));
}

void NetlinkRequest::AppendBytes(std::span<const uint8_t> bytes) {
  bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  bytes_.resize(NLMSG_ALIGN(bytes_.size()));
}

void NetlinkRequest::Attribute(uint16_t type, std::span<const uint8_t> value) {
  VIREO_CHECK(value.size() <= UINT16_MAX - RTA_LENGTH(0), "an attribute has a 16-bit length");
  const rtattr header = {.rta_len = static_cast<uint16_t>(RTA_LENGTH(value.size())),
                         .rta_type = type};
  AppendBytes({reinterpret_cast<const uint8_t*>(&header), sizeof(header)});
  AppendBytes(value);
}

void NetlinkRequest::Attribute(uint16_t type, uint32_t value) {
  Attribute(type,
            std::span<const uint8_t>(reinterpret_cast<const uint8_t*>(&value), sizeof(value)));
}

void NetlinkRequest::Attribute(uint16_t type, std::string_view text) {
  const std::string terminated(text);
  Attribute(type, std::span<const uint8_t>(reinterpret_cast<const uint8_t*>(terminated.c_str()),
                                           terminated.size() + 1));
}

size_t NetlinkRequest::BeginNested(uint16_t type) {
  const size_t begin = bytes_.size();
  Attribute(type, std::span<const uint8_t>());
  return begin;
}

void NetlinkRequest::EndNested(size_t begin) {
  rtattr header;
  std::memcpy(&header, bytes_.data() + begin, sizeof(header));
  header.rta_len = static_cast<uint16_t>(bytes_.size() - begin);
  std::memcpy(bytes_.data() + begin, &header, sizeof(header));
}

absl::StatusOr<Netlink> Netlink::Open() {
  UniqueFd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!socket.valid()) return ErrnoStatus(errno, "netlink socket");
  return Netlink(std::move(socket));
}

absl::StatusOr<std::vector<uint8_t>> Netlink::Exchange(NetlinkRequest request,
                                                       std::string_view what) {
  nlmsghdr header;
  std::memcpy(&header, request.bytes_.data(), sizeof(header));
  header.nlmsg_len = static_cast<uint32_t>(request.bytes_.size());
  header.nlmsg_seq = ++sequence_;
  std::memcpy(request.bytes_.data(), &header, sizeof(header));

  const sockaddr_nl kernel = {.nl_family = AF_NETLINK, .nl_pad = 0, .nl_pid = 0, .nl_groups = 0};
  ssize_t sent;
  do {
    sent = ::sendto(socket_.get(), request.bytes_.data(), request.bytes_.size(), 0,
                    reinterpret_cast<const sockaddr*>(&kernel), sizeof(kernel));
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) return ErrnoStatus(errno, what);

  std::vector<uint8_t> answer;
  std::vector<uint8_t> buffer(kAnswerSize);
  while (true) {
    const ssize_t got = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, what);
    std::span<const uint8_t> rest(buffer.data(), static_cast<size_t>(got));
    while (rest.size() >= kHeaderSize) {
      nlmsghdr part;
      std::memcpy(&part, rest.data(), sizeof(part));
      if (part.nlmsg_len < kHeaderSize || part.nlmsg_len > rest.size()) {
        return absl::InternalError(absl::StrFormat("%s: netlink answers nonsense", what));
      }
      const std::span<const uint8_t> message = rest.first(part.nlmsg_len);
      rest = rest.subspan(std::min<size_t>(NLMSG_ALIGN(part.nlmsg_len), rest.size()));
      if (part.nlmsg_seq != sequence_) continue;  // Of a request that was given up.
      if (part.nlmsg_type != NLMSG_ERROR) {
        answer.assign(message.begin(), message.end());
        continue;
      }
      int32_t error = 0;
      if (message.size() >= kHeaderSize + sizeof(error)) {
        std::memcpy(&error, message.data() + kHeaderSize, sizeof(error));
      }
      if (error != 0) return ErrnoStatus(-error, what);
      return answer;
    }
  }
}

absl::Status Netlink::Transact(NetlinkRequest request, std::string_view what) {
  return Exchange(std::move(request), what).status();
}

absl::StatusOr<Link> Netlink::FindLink(std::string_view name) {
  if (name.empty() || name.size() >= IFNAMSIZ) {
    return absl::NotFoundError(absl::StrFormat("network interface \"%s\": no such device", name));
  }
  NetlinkRequest request(RTM_GETLINK, 0);
  request.Append(ifinfomsg{});
  request.Attribute(IFLA_IFNAME, name);
  absl::StatusOr<std::vector<uint8_t>> answer =
      Exchange(std::move(request), absl::StrFormat("network interface \"%s\"", name));
  if (StatusErrno(answer.status()) == ENODEV) {
    return WithCode(answer.status(), absl::StatusCode::kNotFound);
  }
  RETURN_IF_ERROR(answer.status());
  return ParseLink(*answer);
}

namespace {

NetlinkRequest ChangeLink(int index, unsigned flags, unsigned changed_flags) {
  NetlinkRequest request(RTM_NEWLINK, 0);
  ifinfomsg info = {};
  info.ifi_index = index;
  info.ifi_flags = flags;
  info.ifi_change = changed_flags;
  request.Append(info);
  return request;
}

}  // namespace

absl::Status Netlink::SetMtu(int index, uint32_t mtu) {
  NetlinkRequest request = ChangeLink(index, 0, 0);
  request.Attribute(IFLA_MTU, mtu);
  return Transact(std::move(request), absl::StrFormat("set the MTU to %d", mtu));
}

absl::Status Netlink::SetMac(int index, const MacAddress& mac) {
  NetlinkRequest request = ChangeLink(index, 0, 0);
  request.Attribute(IFLA_ADDRESS, std::span<const uint8_t>(mac.bytes()));
  return Transact(std::move(request), absl::StrFormat("set the address to %s", mac.ToString()));
}

absl::Status Netlink::SetUp(int index) {
  return Transact(ChangeLink(index, IFF_UP, IFF_UP), "bring the interface up");
}

absl::Status Netlink::SetMaster(int index, int master) {
  NetlinkRequest request = ChangeLink(index, 0, 0);
  request.Attribute(IFLA_MASTER, static_cast<uint32_t>(master));
  return Transact(std::move(request), "join the bridge");
}

absl::Status Netlink::DeleteLink(int index) {
  NetlinkRequest request(RTM_DELLINK, 0);
  ifinfomsg info = {};
  info.ifi_index = index;
  request.Append(info);
  return Transact(std::move(request), "delete the interface");
}

}  // namespace vireo
