#include "compiler.hpp"
#include "instrument.hpp"
#include "texts.hpp"
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <fstream>
#include <mutex>
#include <spawn.h>
#include <sstream>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

namespace softmetal {
std::string environment(const char *name) { const char *v = getenv(name); return v ? v : ""; }

namespace {
struct Result { int status = -1; std::string output; };

Result runProcess(const std::vector<std::string> &arguments) {
  Result r;
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) { r.output = "pipe: " + std::string(strerror(errno)); return r; }
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, fds[1], 1);
  posix_spawn_file_actions_adddup2(&actions, fds[1], 2);
  std::vector<char *> argv;
  for (auto &a : arguments) argv.push_back(const_cast<char *>(a.c_str()));
  argv.push_back(nullptr);
  pid_t pid = 0;
  int failed = posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(fds[1]);
  if (failed) { close(fds[0]); r.output = arguments[0] + ": " + strerror(failed); return r; }
  char buffer[16384]; ssize_t n;
  while ((n = read(fds[0], buffer, sizeof buffer)) > 0 || (n < 0 && errno == EINTR)) if (n > 0) r.output.append(buffer, static_cast<size_t>(n));
  close(fds[0]);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
  r.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return r;
}
struct Compiler { std::string path, version; };
const Compiler &compiler() {
  static const Compiler c = [] {
    std::vector<std::string> names = {"clang-19", "clang-20", "clang-21", "clang"};
    std::string wanted = environment("SOFTWARE_METAL_CLANG");
    if (!wanted.empty()) names = {wanted};
    for (auto &n : names) { Result r = runProcess({n, "--version"}); if (r.status == 0) return Compiler{n, r.output}; }
    return Compiler{};
  }();
  return c;
}
std::string hash(const std::string &s) {
  uint64_t a = 1469598103934665603ull, b = 0x9e3779b97f4a7c15ull;
  for (unsigned char c : s) { a = (a ^ c) * 1099511628211ull; b = (b + c) * 0xff51afd7ed558ccdull; b ^= b >> 29; }
  char h[40]; snprintf(h, sizeof h, "%016llx%016llx", static_cast<unsigned long long>(a), static_cast<unsigned long long>(b));
  return h;
}
bool exists(const std::string &p) { return access(p.c_str(), R_OK) == 0; }
bool write(const std::string &p, const std::string &s) { std::ofstream f(p, std::ios::binary); f << s; return static_cast<bool>(f); }
std::string slurp(const std::string &p) { std::ifstream f(p, std::ios::binary); std::stringstream s; s << f.rdbuf(); return s.str(); }
std::string temporary(const std::string &base) { static std::atomic<unsigned> n{0}; return base + "." + std::to_string(getpid()) + "-" + std::to_string(n++); }

std::string missing() { return "the software Metal device needs clang 19: not found as clang-19 or clang; set SOFTWARE_METAL_CLANG to its path"; }
std::vector<std::string> with(std::vector<std::string> a, const std::vector<std::string> &b) { a.insert(a.end(), b.begin(), b.end()); return a; }

/// Makes `path` with `make(temporary)` unless it exists; other threads and processes may do the same at once.
template <class F> bool once(const std::string &path, F make) {
  if (exists(path)) return true;
  std::string t = temporary(path);
  if (!make(t)) { unlink(t.c_str()); return false; }
  return rename(t.c_str(), path.c_str()) == 0;
}
const std::vector<std::string> &dialect() {
  static const std::vector<std::string> f = {"-x", "clcpp", "-cl-std=CLC++2021", "-Xclang", "-ffake-address-space-map", "-cl-single-precision-constant", "-Xclang", "-cl-ext=+cl_khr_fp16", "-cl-no-stdinc",
    "-ffp-contract=on", "-fno-strict-aliasing", "-fPIC", "-fvisibility=hidden", "-march=x86-64-v3", "-Xclang", "-ffloat16-excess-precision=none", "-Xclang", "-fbfloat16-excess-precision=none", "-fno-vectorize", "-fno-slp-vectorize", "-fno-math-errno",
    "-w", "-Werror=return-type", "-Werror=uninitialized", "-fno-color-diagnostics", "-fno-caret-diagnostics"};
  return f;
}
std::vector<std::string> optimization(Mode m) { return m == Mode::fast ? std::vector<std::string>{"-O2", "-g0"} : std::vector<std::string>{"-O1", "-gline-tables-only"}; }

// The executor, compiled once: its path, or empty with `log` filled.
std::string executorPath(std::string &log) {
  if (compiler().path.empty()) { log = missing(); return ""; }
  static const std::string source = text::executor(), path = cacheDirectory() + "/rt-" + hash(source + compiler().version) + ".so";
  bool ok = once(path, [&](const std::string &t) {
    std::string in = t + ".cpp";
    write(in, source);
    Result r = runProcess({compiler().path, "-x", "c++", "-std=c++17", "-O2", "-g1", "-march=x86-64-v3", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-exceptions", "-w", in, "-o", t, "-lstdc++", "-lpthread", "-lm"});
    if (r.status) log = "the executor does not compile: " + r.output;
    unlink(in.c_str());
    return r.status == 0;
  });
  return ok ? path : "";
}

// The stand-in library, parsed once per mode and set of flags.
std::string precompiled(Mode mode, const std::vector<std::string> &flags, std::string &log) {
  std::string key = text::library() + compiler().version;
  std::vector<std::string> all = with(with(dialect(), optimization(mode)), flags);
  for (auto &f : all) key += f + '\n';
  std::string base = cacheDirectory() + "/lib-" + hash(key), pch = base + ".pch", header = base + ".h";
  bool ok = once(header, [&](const std::string &t) { return write(t, text::library()); }) && once(pch, [&](const std::string &t) {
    Result r = runProcess(with(with({compiler().path}, all), {"-c", "-Xclang", "-emit-pch", header, "-o", t}));
    log = r.output;
    return r.status == 0;
  });
  return ok ? pch : "";
}
// Diagnostics speak of MSL, not of what stands for it.
std::string metalTerms(std::string s) {
  static const std::pair<const char *, const char *> terms[] = {{"__attribute__((opencl_global_device)) ", "device "}, {"__global_device", "device"}, {"const __global", "constant"}, {"__global const", "constant"}, {"__global", "constant"},
    {"__local", "threadgroup"}, {"__private", "thread"}, {"SM_DEVICE", "device"}, {"sm_make<", "<"}, {"OpenCL", "Metal"}};
  for (auto &[from, to] : terms)
    for (size_t p = 0; (p = s.find(from, p)) != std::string::npos; p += strlen(to)) s.replace(p, strlen(from), to);
  return s;
}
} // namespace

std::string cacheDirectory() {
  static const std::string directory = [] {
    std::string d = environment("SOFTWARE_METAL_CACHE");
    if (d.empty()) {
      std::string base = environment("XDG_CACHE_HOME");
      if (base.empty() && !environment("HOME").empty()) { base = environment("HOME") + "/.cache"; mkdir(base.c_str(), 0755); }
      d = base.empty() ? "/tmp/software-metal-" + std::to_string(getuid()) : base + "/software-metal";
    }
    mkdir(d.c_str(), 0755);
    return d;
  }();
  return directory;
}

bool preprocess(const std::string &source, const std::vector<std::string> &defines, std::string &out, std::string &log) {
  if (compiler().path.empty()) { log = missing(); return false; }
  std::string key = source + compiler().version + text::macros;
  for (auto &d : defines) key += d + '\n';
  std::string base = cacheDirectory() + "/e-" + hash(key), macros = cacheDirectory() + "/macros-" + hash(text::macros) + ".h", stubs = cacheDirectory() + "/include";
  mkdir(stubs.c_str(), 0755);
  for (const char *n : {"stdlib", "math", "simdgroup", "simdgroup_matrix", "atomic", "compute", "common", "integer", "relational", "geometric", "matrix", "numeric", "limits", "type_traits", "pack", "quadgroup", "config", "array",
                        "extended_vector", "types", "uniform", "half", "texture", "graphics", "tessellation", "command_buffer", "utility", "tuple", "initializer_list", "functional", "packed_vector"})
    if (!once(stubs + "/metal_" + n, [&](const std::string &t) { return write(t, "\n"); })) { log = "cannot write " + stubs; return false; }
  if (!once(macros, [&](const std::string &t) { return write(t, text::macros); })) { log = "cannot write " + macros; return false; }
  bool ok = once(base + ".i", [&](const std::string &t) {
    std::string in = t + ".metal";
    write(in, "#line 1 \"program_source\"\n" + source);
    Result r = runProcess(with({compiler().path, "-E", "-x", "c++", "-std=c++17", "-undef", "-nostdinc", "-I" + stubs, "-include", macros, "-fno-caret-diagnostics", "-fno-color-diagnostics"}, with(defines, {in, "-o", t})));
    unlink(in.c_str());
    log = r.output;
    return r.status == 0;
  });
  if (ok) out = slurp(base + ".i");
  return ok;
}

std::string compileKernels(const std::string &source, Mode mode, const std::vector<std::string> &flags, std::string &log) {
  if (compiler().path.empty()) { log = missing(); return ""; }
  std::string pch = precompiled(mode, flags, log);
  if (pch.empty()) { log = "the stand-in for metal_stdlib does not compile: " + log; return ""; }
  std::string executor = executorPath(log);
  if (executor.empty()) return "";
  std::string library = cacheDirectory() + "/k-" + hash(source + pch + executor + std::to_string(static_cast<int>(mode)) + instrumenterVersion) + ".so";
  bool ok = once(library, [&](const std::string &t) {
    std::string in = t + ".clcpp", object = t + ".o";
    write(in, source);
    std::vector<std::string> front = with(with(with({compiler().path}, dialect()), optimization(mode)), flags);
    front = with(front, {"-include-pch", pch, in});
    Result r;
    if (mode == Mode::fast) r = runProcess(with(front, {"-c", "-o", object}));
    else {
      std::string ir = t + ".ll";
      r = runProcess(with(front, {"-S", "-emit-llvm", "-o", ir}));
      if (r.status == 0) {
        write(ir, instrument(slurp(ir), mode == Mode::checked));
        Result second = runProcess({compiler().path, "-x", "ir", "-O1", "-Xclang", "-disable-llvm-passes", "-fPIC", "-c", "-march=x86-64-v3", "-w", ir, "-o", object});
        if (second.status) { r.status = 255; r.output = "software device: instrumented code of " + ir + " does not compile: " + second.output; }
      }
      if (r.status != 255 && environment("SOFTWARE_METAL_KEEP").empty()) unlink(ir.c_str());
    }
    if (environment("SOFTWARE_METAL_KEEP").empty()) unlink(in.c_str());
    if (r.status >= 128 && r.status != 255) log = "program_source:1:1: error: the compiler crashed on this program (mixed half and bfloat arithmetic does that)\n";
    else log = metalTerms(r.output);
    if (r.status) return false;
    // Linked against the executor, so that a function without a body is an error here, as in Metal.
    Result link = runProcess({compiler().path, "-shared", "-Wl,-Bsymbolic", "-Wl,-z,defs", object, executor, "-lm", "-o", t});
    unlink(object.c_str());
    if (link.status == 0) return true;
    size_t p = link.output.find("undefined reference to "), q = link.output.find("undefined symbol: ");
    size_t at = p != std::string::npos ? p : q;
    log = at == std::string::npos ? link.output : "program_source:1:1: error: " + link.output.substr(at, link.output.find('\n', at) - at) + "\n";
    return false;
  });
  return ok ? library : "";
}

void *executorHandle(std::string &log) {
  static std::mutex lock;
  static void *handle = nullptr;
  std::lock_guard<std::mutex> guard(lock);
  if (handle) return handle;
  std::string path = executorPath(log);
  if (path.empty()) return nullptr;
  handle = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (!handle) log = dlerror();
  return handle;
}
} // namespace softmetal
