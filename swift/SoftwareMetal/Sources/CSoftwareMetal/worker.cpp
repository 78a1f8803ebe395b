#include "worker.hpp"
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <mutex>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

namespace softmetal {
namespace {
std::string failure(const std::string &what) { return what + ": " + strerror(errno); }
int exitStatus(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }
std::string readAll(int fd) {
  std::string all;
  char buffer[16384];
  ssize_t n;
  while ((n = read(fd, buffer, sizeof buffer)) > 0 || (n < 0 && errno == EINTR))
    if (n > 0) all.append(buffer, static_cast<size_t>(n));
  return all;
}

/// Starts a program with `from[i]` as its descriptor `to[i]`. The error is `errno`'s number.
int start(const std::vector<std::string> &arguments, const std::vector<std::pair<int, int>> &descriptors,
          char *const *environment, pid_t &pid) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  for (auto &[from, to] : descriptors) posix_spawn_file_actions_adddup2(&actions, from, to);
  std::vector<char *> argv;
  for (auto &a : arguments) argv.push_back(const_cast<char *>(a.c_str()));
  argv.push_back(nullptr);
  int failed = posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environment);
  posix_spawn_file_actions_destroy(&actions);
  return failed;
}

/// The socket that the worker listens to, or -1 with the reason.
struct Worker {
  int socket = -1;
  std::string reason;
};
Worker startWorker(const std::string &clang, const std::string &preload) {
  Worker w;
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    w.reason = failure("socketpair");
    return w;
  }
  std::string loaded = "LD_PRELOAD=" + preload;
  std::vector<char *> environment;
  for (char **e = environ; *e; ++e)
    if (strncmp(*e, "LD_PRELOAD=", 11)) environment.push_back(*e);
  environment.push_back(loaded.data());
  environment.push_back(nullptr);
  // Where it is no worker it must not wait for input.
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  pid_t pid = 0;
  int failed = start({clang}, {{null, 0}, {null, 1}, {null, 2}, {ends[1], 3}}, environment.data(), pid);
  close(null);
  close(ends[1]);
  char ready;
  if (!failed && recv(ends[0], &ready, 1, 0) == 1) {
    w.socket = ends[0];
    return w;
  }
  close(ends[0]);
  if (!failed) waitpid(pid, nullptr, 0);
  w.reason = failed ? clang + ": " + strerror(failed)
                    : clang + " is not clang linked to a shared libLLVM, which the software device compiles with";
  return w;
}
} // namespace

Result runProcess(const std::vector<std::string> &arguments) {
  Result r;
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) {
    r.output = failure("pipe");
    return r;
  }
  pid_t pid = 0;
  int failed = start(arguments, {{fds[1], 1}, {fds[1], 2}}, environ, pid);
  close(fds[1]);
  if (failed) {
    close(fds[0]);
    r.output = arguments[0] + ": " + strerror(failed);
    return r;
  }
  r.output = readAll(fds[0]);
  close(fds[0]);
  int status = 0;
  rusage used{};
  while (wait4(pid, &status, 0, &used) < 0 && errno == EINTR) {}
  r.status = exitStatus(status);
  r.seconds = static_cast<double>(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
              1e-6 * static_cast<double>(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
  return r;
}

Result runWorker(const std::string &clang, const std::string &preload, const std::vector<std::string> &arguments) {
  static const Worker worker = startWorker(clang, preload);
  Result r;
  if (worker.socket < 0) {
    r.output = worker.reason;
    return r;
  }
  std::string request;
  for (auto &a : arguments) request += a + '\0';
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) {
    r.output = failure("pipe");
    return r;
  }
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  iovec part{request.data(), request.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr *rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(rights), &fds[1], sizeof(int));
  ssize_t sent;
  while ((sent = sendmsg(worker.socket, &message, MSG_NOSIGNAL)) < 0 && errno == EINTR) {}
  if (sent < 0) r.output = failure("the compile worker is gone");
  close(fds[1]);
  if (sent >= 0) r.output = readAll(fds[0]);
  close(fds[0]);
  // Behind the output: how it ended (`ending` in device/worker.h).
  struct {
    int status;
    unsigned microseconds;
  } ending;
  if (sent < 0 || r.output.size() < sizeof ending) return r;
  memcpy(&ending, r.output.data() + r.output.size() - sizeof ending, sizeof ending);
  r.output.resize(r.output.size() - sizeof ending);
  r.status = exitStatus(ending.status);
  r.seconds = 1e-6 * ending.microseconds;
  return r;
}
} // namespace softmetal
