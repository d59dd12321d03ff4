// The whole way through gRPC on a unix socket: client, server, service and streams, against a fake
// machine.
#include "api/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "api/client.h"
#include "api/version.h"
#include "tests/support/fake_vm_controller.h"
#include "tests/support/temp_dir.h"

namespace vireo::api {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(60);  // Only ever reached by a failing test.

class ServerTest : public testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<UnixListener> listener = UnixListener::Bind(address_);
    ASSERT_TRUE(listener.ok()) << listener.status();
    absl::StatusOr<std::unique_ptr<Server>> server =
        Server::Start(*std::move(listener), controller_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    client_ = Connect();
  }

  std::unique_ptr<Client> Connect() {
    absl::StatusOr<std::unique_ptr<Client>> client = Client::Connect(address_);
    EXPECT_TRUE(client.ok()) << client.status();
    return *std::move(client);
  }

  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(grpc::Status (Client::Stub::*method)(grpc::ClientContext*,
                                                                     const Request&, Response*),
                                const Request& request = {}) {
    return client_->Call(method, request, kTimeout);
  }

  absl::Status Create() {
    v1::CreateRequest request;
    request.mutable_config()->set_name("web1");
    request.mutable_config()->mutable_boot()->set_kernel("vmlinuz");
    return Call(&Client::Stub::Create, request).status();
  }
  absl::Status Boot() { return Call(&Client::Stub::Boot).status(); }

  TempDir directory_;
  const std::string address_ = "unix:" + directory_.File("vm.sock");
  FakeVmController controller_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<Client> client_;
};

TEST_F(ServerTest, WalksAMachineThroughItsLife) {
  EXPECT_EQ(Create(), absl::OkStatus());
  EXPECT_EQ(Call(&Client::Stub::Boot)->state(), v1::RUNNING);
  EXPECT_EQ(Call(&Client::Stub::Pause)->state(), v1::PAUSED);
  EXPECT_EQ(Call(&Client::Stub::Resume)->state(), v1::RUNNING);
  EXPECT_EQ(Call(&Client::Stub::Shutdown)->state(), v1::RUNNING);
  EXPECT_EQ(Call(&Client::Stub::Reset)->state(), v1::RUNNING);
  EXPECT_EQ(Call(&Client::Stub::Stop)->state(), v1::STOPPED);
  EXPECT_THAT(controller_.calls(),
              ElementsAre("Create", "Boot", "Pause", "Resume", "Shutdown", "Reset", "Stop"));
}

TEST_F(ServerTest, DescribeShowsStateAndConfig) {
  EXPECT_EQ(Call(&Client::Stub::Describe)->vm().state(), v1::EMPTY);
  ASSERT_EQ(Create(), absl::OkStatus());
  const v1::VmDescription vm = Call(&Client::Stub::Describe)->vm();
  EXPECT_EQ(vm.state(), v1::CREATED);
  EXPECT_EQ(vm.config().name(), "web1");
}

TEST_F(ServerTest, StatsArePassedOn) {
  VmStats stats;
  stats.vcpus = {{.index = 0, .cpu_time_ns = 7, .exits = 8}};
  controller_.SetStats(stats);
  EXPECT_EQ(Call(&Client::Stub::Stats)->stats().vcpus(0).exits(), 8u);
}

TEST_F(ServerTest, DisksGetNewLimits) {
  ASSERT_EQ(Create(), absl::OkStatus());
  controller_.EditDescription(
      [](VmDescription& description) { description.config.disks = {{.id = "disk0"}}; });
  v1::SetDiskThrottleRequest request;
  request.set_disk("disk0");
  request.mutable_throttle()->mutable_ops_read()->set_per_second(7);
  ASSERT_TRUE(client_->Call(&Client::Stub::SetDiskThrottle, request, absl::Seconds(30)).ok());
  EXPECT_EQ(controller_.Describe().config.disks[0].throttle.ops_read.per_second, 7u);
  request.set_disk("disk1");
  EXPECT_TRUE(absl::IsNotFound(
      client_->Call(&Client::Stub::SetDiskThrottle, request, absl::Seconds(30)).status()));
}

TEST_F(ServerTest, MediaChange) {
  ASSERT_EQ(Create(), absl::OkStatus());
  controller_.EditDescription(
      [](VmDescription& description) { description.config.cdroms = {{.id = "cdrom0"}}; });
  v1::SetMediumRequest request;
  request.set_cdrom("cdrom0");
  request.set_path("/iso/a.iso");
  ASSERT_TRUE(client_->Call(&Client::Stub::SetMedium, request, absl::Seconds(30)).ok());
  EXPECT_EQ(controller_.Describe().config.cdroms[0].path, "/iso/a.iso");
  request.clear_path();
  request.set_force(true);
  ASSERT_TRUE(client_->Call(&Client::Stub::SetMedium, request, absl::Seconds(30)).ok());
  EXPECT_EQ(controller_.Describe().config.cdroms[0].path, "");
  request.set_cdrom("cdrom1");
  EXPECT_TRUE(absl::IsNotFound(
      client_->Call(&Client::Stub::SetMedium, request, absl::Seconds(30)).status()));
}

TEST_F(ServerTest, VersionIsTold) {
  const absl::StatusOr<v1::GetVersionResponse> version = Call(&Client::Stub::GetVersion);
  ASSERT_TRUE(version.ok()) << version.status();
  EXPECT_EQ(version->version(), kVersion);
  EXPECT_EQ(version->api_version(), "v1");
  EXPECT_THAT(version->machines(), ElementsAre("vireo-1"));
}

TEST_F(ServerTest, ErrorsOfTheMachineKeepCodeAndMessage) {
  controller_.FailNext(absl::DataLossError("root.qcow2: refcount table is beyond the file"));
  EXPECT_EQ(Create(), absl::DataLossError("root.qcow2: refcount table is beyond the file"));
  EXPECT_TRUE(absl::IsFailedPrecondition(Boot()));
}

TEST_F(ServerTest, CreateWithoutConfigIsRefused) {
  EXPECT_EQ(Call(&Client::Stub::Create).status(), absl::InvalidArgumentError("config: missing"));
  EXPECT_THAT(controller_.calls(), ElementsAre());
}

TEST_F(ServerTest, CreateWithAnUnknownValueIsRefused) {
  v1::CreateRequest request;
  request.mutable_config()->set_on_crash(static_cast<v1::OnCrash>(9));
  const absl::Status status = Call(&Client::Stub::Create, request).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(controller_.calls(), ElementsAre());
}

TEST_F(ServerTest, CreateWithTheServersOwnTerminalIsRefused) {
  v1::CreateRequest request;
  request.mutable_config()->mutable_console()->set_mode(v1::Console::STDIO);
  const absl::Status status = Call(&Client::Stub::Create, request).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("console.mode"));
}

TEST_F(ServerTest, OperationIdMakesARetryHarmless) {
  ASSERT_EQ(Create(), absl::OkStatus());
  ASSERT_EQ(Boot(), absl::OkStatus());
  v1::ResetRequest request;
  request.set_operation_id("reset-1");
  EXPECT_EQ(Call(&Client::Stub::Reset, request).status(), absl::OkStatus());
  EXPECT_EQ(Call(&Client::Stub::Reset, request).status(), absl::OkStatus());
  EXPECT_EQ(controller_.Describe().resets, 1u);

  v1::StopRequest other;  // Same id, other call.
  other.set_operation_id("reset-1");
  EXPECT_TRUE(absl::IsInvalidArgument(Call(&Client::Stub::Stop, other).status()));
}

TEST_F(ServerTest, RetryAfterTheFirstCallerGaveUpJoinsItsOperation) {
  ASSERT_EQ(Create(), absl::OkStatus());
  ASSERT_EQ(Boot(), absl::OkStatus());
  controller_.Hold();
  v1::ResetRequest request;
  request.set_operation_id("reset-1");
  grpc::ClientContext context;
  std::thread first([&] {
    v1::ResetResponse response;
    const grpc::Status status = client_->stub().Reset(&context, request, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  });
  controller_.WaitForCalls(3);
  context.TryCancel();
  first.join();
  std::thread retry(
      [&] { EXPECT_EQ(Call(&Client::Stub::Reset, request).status(), absl::OkStatus()); });
  controller_.Release();
  retry.join();
  EXPECT_EQ(controller_.Describe().resets, 1u);
}

TEST_F(ServerTest, HeldCallDoesNotDelayAnswersFromTheSnapshot) {
  ASSERT_EQ(Create(), absl::OkStatus());
  controller_.Hold();
  std::thread boot([&] { EXPECT_EQ(Boot(), absl::OkStatus()); });
  controller_.WaitForCalls(2);
  EXPECT_EQ(Call(&Client::Stub::Describe)->vm().state(), v1::RUNNING);
  EXPECT_TRUE(Call(&Client::Stub::Stats).ok());
  controller_.Release();
  boot.join();
}

// ---- Events ----

struct Watch {
  Watch(Client& client, uint64_t after) {
    v1::WatchEventsRequest request;
    request.set_after_sequence(after);
    reader = client.stub().WatchEvents(&context, request);
  }
  v1::Event Next() {
    v1::Event event;
    EXPECT_TRUE(reader->Read(&event));
    return event;
  }
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReader<v1::Event>> reader;
};

TEST_F(ServerTest, WatchShowsPastAndComingEvents) {
  ASSERT_EQ(Create(), absl::OkStatus());
  Watch watch(*client_, 0);
  EXPECT_EQ(watch.Next().state(), v1::CREATED);
  ASSERT_EQ(Boot(), absl::OkStatus());
  EXPECT_EQ(watch.Next().state(), v1::RUNNING);
  controller_.Raise(VmEventKind::kGuestPanicked, VmCause::kGuestPanic, "pvpanic");
  const v1::Event event = watch.Next();
  EXPECT_EQ(event.kind(), v1::Event::GUEST_PANICKED);
  EXPECT_EQ(event.cause(), v1::GUEST_PANIC);
  EXPECT_EQ(event.detail(), "pvpanic");
  EXPECT_EQ(event.sequence(), 3u);

  Watch late(*client_, 2);
  EXPECT_EQ(late.Next().sequence(), 3u);
}

TEST_F(ServerTest, WatchEndsWithTheMachine) {
  Watch watch(*client_, 0);
  controller_.WaitForWatchers(1);
  controller_.StopBecause(VmCause::kGuestPowerOff, "S5");
  controller_.Close();
  EXPECT_EQ(watch.Next().cause(), v1::GUEST_POWER_OFF);
  v1::Event none;
  EXPECT_FALSE(watch.reader->Read(&none));
  EXPECT_TRUE(watch.reader->Finish().ok());
  controller_.WaitForWatchers(0);
}

TEST_F(ServerTest, CancelledWatchIsRemoved) {
  Watch watch(*client_, 0);
  controller_.WaitForWatchers(1);
  watch.context.TryCancel();
  controller_.WaitForWatchers(0);
  EXPECT_EQ(watch.reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(ServerTest, WatchOfAClientThatDiesIsRemoved) {
  auto doomed = Connect();
  auto watch = std::make_unique<Watch>(*doomed, 0);
  controller_.WaitForWatchers(1);
  watch.reset();
  doomed.reset();
  controller_.WaitForWatchers(0);
}

TEST_F(ServerTest, WatcherThatFallsBehindIsTold) {
  Watch watch(*client_, 0);
  controller_.WaitForWatchers(1);
  // More than the transport's windows and the queue hold together, as nobody reads.
  const std::string detail(8 << 10, 'x');
  for (int i = 0; i < 4096; ++i) {
    controller_.Raise(VmEventKind::kDeviceNeedsReset, VmCause::kNone, detail);
  }
  uint64_t last = 0;
  v1::Event event;
  while (watch.reader->Read(&event)) {
    EXPECT_EQ(event.sequence(), last + 1);
    last = event.sequence();
  }
  EXPECT_LT(last, 4096u);
  EXPECT_EQ(watch.reader->Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(ServerTest, WatcherThatVanishesWhileEventsFlowIsRemoved) {
  auto doomed = Connect();
  auto watch = std::make_unique<Watch>(*doomed, 0);
  controller_.WaitForWatchers(1);
  const std::string detail(64 << 10, 'x');
  for (int i = 0; i < 100; ++i) {  // More than the transport takes, as nobody reads.
    controller_.Raise(VmEventKind::kDeviceNeedsReset, VmCause::kNone, detail);
  }
  watch.reset();
  doomed.reset();
  controller_.WaitForWatchers(0);
}

// ---- Console ----

struct ConsoleCall {
  explicit ConsoleCall(Client& client) : stream(client.stub().Console(&context)) {}
  void Type(const std::string& text) {
    v1::ConsoleInput input;
    input.set_data(text);
    EXPECT_TRUE(stream->Write(input));
  }
  // Reads until `size` bytes are there or the stream ends.
  std::string Read(size_t size) {
    std::string text;
    v1::ConsoleOutput output;
    while (text.size() < size && stream->Read(&output)) {
      text += output.data();
      lost += output.lost_bytes();
    }
    return text;
  }
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReaderWriter<v1::ConsoleInput, v1::ConsoleOutput>> stream;
  uint64_t lost = 0;
};

TEST_F(ServerTest, ConsoleCarriesBytesBothWays) {
  ConsoleCall console(*client_);
  controller_.Print("login: ");
  EXPECT_EQ(console.Read(7), "login: ");
  console.Type("root\n");
  controller_.WaitForInput("root\n");
  controller_.Print(std::string("\0\xff#", 3));
  EXPECT_EQ(console.Read(3), std::string("\0\xff#", 3));
}

TEST_F(ServerTest, LateConsoleStillShowsTheBoot) {
  controller_.Print("[    0.000000] Linux version\n");
  ConsoleCall console(*client_);
  EXPECT_EQ(console.Read(29), "[    0.000000] Linux version\n");
}

TEST_F(ServerTest, EveryConsoleSeesTheOutput) {
  ConsoleCall one(*client_);
  ConsoleCall two(*client_);
  controller_.WaitForReaders(2);
  controller_.Print("hello");
  EXPECT_EQ(one.Read(5), "hello");
  EXPECT_EQ(two.Read(5), "hello");
}

TEST_F(ServerTest, ConsoleInputWaitsUntilTheGuestTakesIt) {
  controller_.SetInputRoom(3);
  ConsoleCall console(*client_);
  console.Type("abcdef");
  console.Type("gh");
  controller_.WaitForInput("abc");
  controller_.SetInputRoom(2);
  controller_.WaitForInput("abcde");
  controller_.SetInputRoom(SIZE_MAX);
  controller_.WaitForInput("abcdefgh");
}

TEST_F(ServerTest, ConsoleStaysAfterTheClientHasClosedItsSide) {
  ConsoleCall console(*client_);
  console.Type("x");
  ASSERT_TRUE(console.stream->WritesDone());
  controller_.WaitForInput("x");
  controller_.Print("more");
  EXPECT_EQ(console.Read(4), "more");
  controller_.Close();
  EXPECT_EQ(console.Read(1), "");
  EXPECT_TRUE(console.stream->Finish().ok());
}

TEST_F(ServerTest, ConsoleDetachesAtEofWhenAskedTo) {
  controller_.SetInputRoom(1);
  ConsoleCall console(*client_);
  v1::ConsoleInput input;
  input.set_data("halt\n");
  input.set_detach_at_eof(true);
  ASSERT_TRUE(console.stream->Write(input));
  ASSERT_TRUE(console.stream->WritesDone());
  controller_.WaitForInput("h");
  controller_.SetInputRoom(SIZE_MAX);
  EXPECT_EQ(console.Read(1), "");
  EXPECT_TRUE(console.stream->Finish().ok());
  EXPECT_EQ(controller_.input(), "halt\n");
  controller_.WaitForReaders(0);
}

TEST_F(ServerTest, CancelledConsoleIsRemovedAlsoWhileInputWaits) {
  controller_.SetInputRoom(0);
  ConsoleCall console(*client_);
  console.Type("x");
  controller_.WaitForReaders(1);
  console.context.TryCancel();
  controller_.WaitForReaders(0);
  EXPECT_EQ(console.stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(ServerTest, SlowConsoleLosesTheOldestBytesAndIsTold) {
  ConsoleCall console(*client_);
  controller_.WaitForReaders(1);
  constexpr size_t kChunk = 64 << 10;
  constexpr size_t kChunks = 512;
  for (size_t i = 0; i < kChunks; ++i) controller_.Print(std::string(kChunk, 'a'));
  controller_.Print("end");
  controller_.Close();
  const std::string text = console.Read(SIZE_MAX);
  EXPECT_GT(console.lost, 0u);
  EXPECT_EQ(text.size() + console.lost, kChunk * kChunks + 3);
  EXPECT_EQ(text.substr(text.size() - 3), "end");
  EXPECT_TRUE(console.stream->Finish().ok());
}

TEST_F(ServerTest, ConsoleThatDoesNotReadHoldsUpNobodyElse) {
  ConsoleCall idle(*client_);
  ConsoleCall busy(*client_);
  controller_.WaitForReaders(2);
  const std::string chunk(64 << 10, 'a');
  for (int i = 0; i < 64; ++i) {
    controller_.Print(chunk);
    EXPECT_EQ(busy.Read(chunk.size()), chunk);
  }
  idle.context.TryCancel();
  controller_.WaitForReaders(1);
  controller_.Print("end");
  EXPECT_EQ(busy.Read(3), "end");
}

TEST_F(ServerTest, ConsoleThatVanishesWhileBothSidesWaitIsRemoved) {
  controller_.SetInputRoom(2);
  auto doomed = Connect();
  auto console = std::make_unique<ConsoleCall>(*doomed);
  console->Type("abc");
  controller_.WaitForInput("ab");
  controller_.WaitForReaders(1);
  for (int i = 0; i < 64; ++i) controller_.Print(std::string(64 << 10, 'a'));
  console.reset();
  doomed.reset();
  controller_.WaitForReaders(0);
  controller_.SetInputRoom(SIZE_MAX);
  EXPECT_EQ(controller_.input(), "ab");
}

TEST_F(ServerTest, ConsoleEndsWithTheMachineAlsoWhileInputWaits) {
  controller_.SetInputRoom(0);
  ConsoleCall console(*client_);
  console.Type("x");
  controller_.WaitForReaders(1);
  controller_.Print("bye");
  controller_.Close();
  EXPECT_EQ(console.Read(SIZE_MAX), "bye");
  EXPECT_TRUE(console.stream->Finish().ok());
}

TEST_F(ServerTest, HalfClosedConsoleCanBeCancelled) {
  ConsoleCall console(*client_);
  ASSERT_TRUE(console.stream->WritesDone());
  controller_.WaitForReaders(1);
  controller_.Print("seen");
  EXPECT_EQ(console.Read(4), "seen");
  console.context.TryCancel();
  controller_.WaitForReaders(0);
  EXPECT_EQ(console.stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(ServerTest, ManyInputsOfOneByteArriveInOrder) {
  controller_.SetInputRoom(1);
  ConsoleCall console(*client_);
  std::string typed;
  for (int i = 0; i < 50; ++i) {
    typed += static_cast<char>('!' + i);
    console.Type(typed.substr(i));
  }
  for (int i = 1; i < 50; ++i) {
    controller_.WaitForInput(typed.substr(0, i));
    controller_.SetInputRoom(1);
  }
  controller_.WaitForInput(typed);
}

TEST_F(ServerTest, TooMuchInputInOneMessageIsRefused) {
  ConsoleCall console(*client_);
  console.Type(std::string((64 << 10) + 1, 'x'));
  EXPECT_EQ(console.Read(1), "");
  EXPECT_EQ(console.stream->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(controller_.input(), "");
}

// ---- The server's own life ----

TEST_F(ServerTest, StopCancelsStreamsAndRemovesTheSocket) {
  Watch watch(*client_, 0);
  ConsoleCall console(*client_);
  controller_.WaitForWatchers(1);
  controller_.WaitForReaders(1);
  server_->Stop(absl::ZeroDuration());
  EXPECT_FALSE(watch.reader->Finish().ok());
  EXPECT_FALSE(console.stream->Finish().ok());
  EXPECT_NE(::access(directory_.File("vm.sock").c_str(), F_OK), 0);
  const absl::Status late = Call(&Client::Stub::Describe).status();
  EXPECT_TRUE(absl::IsUnavailable(late)) << late;
  EXPECT_THAT(std::string(late.message()), HasSubstr(address_));
  EXPECT_EQ(Client::Connect(address_).status(),
            absl::UnavailableError(address_ + ": no VM listens there"));
}

TEST_F(ServerTest, StopLetsStreamsEndWithTheMachine) {
  Watch watch(*client_, 0);
  ConsoleCall console(*client_);
  controller_.WaitForWatchers(1);
  controller_.WaitForReaders(1);
  std::thread stopper([&] { server_->Stop(kTimeout); });
  controller_.Print("bye");
  controller_.StopBecause(VmCause::kGuestPowerOff, "S5");
  controller_.Close();
  EXPECT_EQ(console.Read(SIZE_MAX), "bye");
  const grpc::Status console_end = console.stream->Finish();
  EXPECT_TRUE(console_end.ok()) << console_end.error_code() << " " << console_end.error_message();
  EXPECT_EQ(watch.Next().cause(), v1::GUEST_POWER_OFF);
  const grpc::Status watch_end = watch.reader->Finish();
  EXPECT_TRUE(watch_end.ok()) << watch_end.error_code() << " " << watch_end.error_message();
  stopper.join();
}

TEST_F(ServerTest, StopWithoutGraceWaitsForTheControllerOfACancelledCall) {
  ASSERT_EQ(Create(), absl::OkStatus());
  controller_.Hold();
  grpc::ClientContext context;
  std::thread caller([&] {
    v1::BootResponse response;
    const grpc::Status status = client_->stub().Boot(&context, {}, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  });
  controller_.WaitForCalls(2);
  context.TryCancel();
  caller.join();
  std::thread stopper([&] { server_->Stop(absl::ZeroDuration()); });
  controller_.Release();
  stopper.join();
}

TEST_F(ServerTest, StopWithoutGraceCancelsCallsThatTheControllerHas) {
  ASSERT_EQ(Create(), absl::OkStatus());
  controller_.Hold();
  std::thread caller([&] { EXPECT_FALSE(Boot().ok()); });
  controller_.WaitForCalls(2);
  std::thread stopper([&] { server_->Stop(absl::ZeroDuration()); });
  caller.join();
  controller_.Release();
  stopper.join();
}

TEST_F(ServerTest, StopLetsAnAnswerOut) {
  controller_.Hold();
  absl::Status status;
  std::thread caller([&] { status = Call(&Client::Stub::Stop).status(); });
  controller_.WaitForCalls(1);
  std::thread stopper([&] { server_->Stop(kTimeout); });
  controller_.Release();
  caller.join();
  stopper.join();
  EXPECT_EQ(status, absl::OkStatus());
}

TEST_F(ServerTest, ClientsDeadlineNamesTheAddress) {
  controller_.Hold();
  v1::CreateRequest request;
  request.mutable_config();
  const absl::Status status =
      client_->Call(&Client::Stub::Create, request, absl::Milliseconds(50)).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(address_ + ": no answer"));
  controller_.Release();
}

TEST_F(ServerTest, MachinesDeadlineIsPassedOnAsItIs) {
  controller_.FailNext(absl::DeadlineExceededError("root.qcow2: still writing"));
  EXPECT_EQ(Call(&Client::Stub::Stop).status(),
            absl::DeadlineExceededError("root.qcow2: still writing"));
}

TEST_F(ServerTest, ManyClientsAtOnce) {
  ASSERT_EQ(Create(), absl::OkStatus());
  std::vector<std::thread> threads;
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([this] {
      const auto client = Connect();
      for (int k = 0; k < 20; ++k) {
        EXPECT_TRUE(client->Call(&Client::Stub::Describe, {}, kTimeout).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(ServerTest, ManyStreamsAtOnce) {
  constexpr size_t kClients = 8;
  constexpr size_t kStreams = 8;  // Of each kind, for each client.
  std::vector<std::unique_ptr<Client>> clients;
  std::vector<std::unique_ptr<Watch>> watches;
  std::vector<std::unique_ptr<ConsoleCall>> consoles;
  for (size_t i = 0; i < kClients; ++i) {
    clients.push_back(Connect());
    for (size_t k = 0; k < kStreams; ++k) {
      watches.push_back(std::make_unique<Watch>(*clients.back(), 0));
      consoles.push_back(std::make_unique<ConsoleCall>(*clients.back()));
    }
  }
  controller_.WaitForWatchers(kClients * kStreams);
  controller_.WaitForReaders(kClients * kStreams);
  controller_.Raise(VmEventKind::kGuestPanicked, VmCause::kGuestPanic, "pvpanic");
  controller_.Print("hello");
  for (const auto& watch : watches) EXPECT_EQ(watch->Next().detail(), "pvpanic");
  for (const auto& console : consoles) EXPECT_EQ(console->Read(5), "hello");
  clients.erase(clients.begin(), clients.begin() + kClients / 2);  // Their streams stay theirs.
  controller_.Close();
  for (const auto& watch : watches) EXPECT_TRUE(watch->reader->Finish().ok());
  for (const auto& console : consoles) EXPECT_TRUE(console->stream->Finish().ok());
  controller_.WaitForWatchers(0);
  controller_.WaitForReaders(0);
}

}  // namespace
}  // namespace vireo::api
