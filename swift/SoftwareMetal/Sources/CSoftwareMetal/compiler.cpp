#include "compiler.hpp"
#include "instrument.hpp"
#include "texts.hpp"
#include "worker.hpp"
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <fstream>
#include <mutex>
#include <sstream>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

namespace softmetal {
std::string environment(const char *name) {
  const char *v = getenv(name);
  return v ? v : "";
}

namespace {
struct Compiler {
  std::string path, version;
};
const Compiler &compiler() {
  static const Compiler c = [] {
    std::vector<std::string> names = {"clang-19", "clang-20", "clang-21", "clang"};
    std::string wanted = environment("SOFTWARE_METAL_CLANG");
    if (!wanted.empty()) names = {wanted};
    for (auto &n : names) {
      Result r = runProcess({n, "--version"});
      if (r.status == 0) return Compiler{n, r.output};
    }
    return Compiler{};
  }();
  return c;
}
std::string hash(const std::string &s) {
  uint64_t a = 1469598103934665603ull, b = 0x9e3779b97f4a7c15ull;
  for (unsigned char c : s) {
    a = (a ^ c) * 1099511628211ull;
    b = (b + c) * 0xff51afd7ed558ccdull;
    b ^= b >> 29;
  }
  char h[40];
  snprintf(h, sizeof h, "%016llx%016llx", static_cast<unsigned long long>(a), static_cast<unsigned long long>(b));
  return h;
}
bool exists(const std::string &p) { return access(p.c_str(), R_OK) == 0; }
bool write(const std::string &p, const std::string &s) {
  std::ofstream f(p, std::ios::binary);
  f << s;
  return static_cast<bool>(f);
}
std::string slurp(const std::string &p) {
  std::ifstream f(p, std::ios::binary);
  std::stringstream s;
  s << f.rdbuf();
  return s.str();
}
std::string temporary(const std::string &base) {
  static std::atomic<unsigned> n{0};
  return base + "." + std::to_string(getpid()) + "-" + std::to_string(n++);
}

std::string missing() {
  return "the software Metal device needs clang 19: not found as clang-19 or clang; set SOFTWARE_METAL_CLANG to its "
         "path";
}
std::vector<std::string> with(std::vector<std::string> a, const std::vector<std::string> &b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// Makes `path` with `make(temporary)` unless it exists. Threads and processes that want the same one at once wait for
/// the first.
template <class F> bool once(const std::string &path, F make) {
  if (exists(path)) return true;
  std::string lock = path + ".lock", t = temporary(path);
  int held = open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (held >= 0)
    while (flock(held, LOCK_EX) != 0 && errno == EINTR) {}
  bool there = exists(path) || (make(t) && rename(t.c_str(), path.c_str()) == 0);
  unlink(t.c_str());
  unlink(lock.c_str()); // who waits for it finds `path`
  if (held >= 0) close(held);
  return there;
}
const std::vector<std::string> &dialect() {
  static const std::vector<std::string> f = {"-x",
                                             "clcpp",
                                             "-cl-std=CLC++2021",
                                             "-Xclang",
                                             "-ffake-address-space-map",
                                             "-cl-single-precision-constant",
                                             "-Xclang",
                                             "-cl-ext=+cl_khr_fp16",
                                             "-cl-no-stdinc",
                                             "-ffp-contract=on",
                                             "-fno-strict-aliasing",
                                             "-fPIC",
                                             "-fvisibility=hidden",
                                             "-march=x86-64-v3",
                                             "-Xclang",
                                             "-ffloat16-excess-precision=none",
                                             "-Xclang",
                                             "-fbfloat16-excess-precision=none",
                                             "-fno-vectorize",
                                             "-fno-slp-vectorize",
                                             "-fno-math-errno",
                                             "-Wimplicit-float-conversion",
                                             "-Werror=return-type",
                                             "-Werror=uninitialized",
                                             "-fno-color-diagnostics",
                                             "-fno-caret-diagnostics"};
  return f;
}
std::vector<std::string> optimization(Mode m) {
  return m == Mode::fast ? std::vector<std::string>{"-O2", "-g0"}
                         : std::vector<std::string>{"-O1", "-gline-tables-only"};
}

// The executor, compiled once: its path, or empty with `log` filled.
std::string executorPath(std::string &log) {
  if (compiler().path.empty()) {
    log = missing();
    return "";
  }
  static const std::string source = text::executor(),
                           path = cacheDirectory() + "/rt-" + hash(source + compiler().version) + ".so";
  bool ok = once(path, [&](const std::string &t) {
    std::string in = t + ".cpp";
    write(in, source);
    Result r =
        runProcess({compiler().path, "-x", "c++", "-std=c++17", "-O2", "-g1", "-march=x86-64-v3", "-fPIC", "-shared",
                    "-fvisibility=hidden", "-fno-exceptions", "-w", in, "-o", t, "-lstdc++", "-lpthread", "-lm"});
    if (r.status) log = "the executor does not compile: " + r.output;
    unlink(in.c_str());
    return r.status == 0;
  });
  return ok ? path : "";
}

// clang, or the code generator, in a child of the compile worker.
Result compile(const std::vector<std::string> &arguments) {
  static const std::string source = text::worker,
                           preload = cacheDirectory() + "/worker-" + hash(source + compiler().version) + ".so";
  std::string log;
  bool ok = once(preload, [&](const std::string &t) {
    std::string in = t + ".c";
    write(in, source);
    Result r = runProcess({compiler().path, "-O1", "-fPIC", "-shared", "-w", in, "-o", t, "-ldl"});
    log = "the compile worker does not compile: " + r.output;
    unlink(in.c_str());
    return r.status == 0;
  });
  if (!ok) {
    Result r;
    r.output = log;
    return r;
  }
  return runWorker(compiler().path, preload, arguments);
}

// The linker command of clang, asked once: a link of ours need not start clang. IN and OUT stand for files.
const std::vector<std::string> &linker(const std::string &executor) {
  static const std::vector<std::string> words = [&] {
    std::vector<std::string> w;
    Result r = compile(
        {compiler().path, "-###", "-shared", "-Wl,-Bsymbolic", "-Wl,-z,defs", "-Wl,IN", executor, "-lm", "-o", "OUT"});
    size_t line = r.output.rfind("\n \"");
    for (size_t i = line + 1; line != std::string::npos && i < r.output.size(); ++i) {
      if (r.output[i] != '"') continue;
      std::string word;
      for (++i; i < r.output.size() && r.output[i] != '"'; ++i) {
        if (r.output[i] == '\\') ++i;
        word += r.output[i];
      }
      w.push_back(word);
    }
    return w;
  }();
  return words;
}
Result link(const std::string &object, const std::string &executor, const std::string &out) {
  const std::vector<std::string> &all = linker(executor);
  if (all.empty()) {
    Result r;
    r.output = compiler().path + " does not say how it links";
    return r;
  }
  // Most kernels need the executor and libm only, and half of the linker's time goes to what else a library might need.
  std::vector<std::string> full, small;
  for (auto &w : all) {
    std::string word = w == "IN" ? object : w == "OUT" ? out : w;
    full.push_back(word);
    bool start = word.size() > 2 && word.compare(word.size() - 2, 2, ".o") == 0 && word != object;
    if (!start && word != "-lgcc" && word != "-lgcc_s" && word != "-lc" && word != "--build-id" &&
        word != "--eh-frame-hdr")
      small.push_back(word);
  }
  Result r = runProcess(small);
  return r.status == 0 ? r : runProcess(full);
}

// The stand-in library, parsed once per mode and set of flags.
std::string precompiled(Mode mode, const std::vector<std::string> &flags, std::string &log) {
  std::string key = text::library() + compiler().version;
  std::vector<std::string> all = with(with(dialect(), optimization(mode)), flags);
  for (auto &f : all) key += f + '\n';
  std::string base = cacheDirectory() + "/lib-" + hash(key), pch = base + ".pch", header = base + ".h";
  bool ok = once(header, [&](const std::string &t) { return write(t, text::library()); }) &&
            once(pch, [&](const std::string &t) {
              Result r = compile(with(with({compiler().path}, all), {"-c", "-Xclang", "-emit-pch", header, "-o", t}));
              log = r.output;
              return r.status == 0;
            });
  return ok ? pch : "";
}
// A line for each requested library, in the file that SOFTWARE_METAL_LOG names: whether it was `made`, `found` or
// `refused`, its mode and name, and where it was made seconds of the processor by stage. One write each: processes
// share the file.
void record(const char *what, Mode mode, const std::string &library, const std::string &stages) {
  static const std::string path = environment("SOFTWARE_METAL_LOG");
  if (path.empty()) return;
  static const char *const modes[] = {"fast", "counted", "checked"};
  std::string name = library.substr(library.rfind('/') + 1), line = std::string(what) + " " +
                                                                    modes[static_cast<int>(mode)] + " " +
                                                                    name.substr(0, name.find('.')) + stages + "\n";
  int file = open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (file < 0) return;
  if (::write(file, line.data(), line.size()) < 0) {}
  close(file);
}
double processorSeconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}
std::string stage(const char *name, double seconds) {
  char text[48];
  snprintf(text, sizeof text, " %s %.3f", name, seconds);
  return text;
}
// Diagnostics speak of MSL, not of what stands for it.
std::string metalTerms(std::string s) {
  static const std::pair<const char *, const char *> terms[] = {{"__attribute__((opencl_global_device)) ", "device "},
                                                                {"__global_device", "device"},
                                                                {"const __global", "constant"},
                                                                {"__global const", "constant"},
                                                                {"__global", "constant"},
                                                                {"__local", "threadgroup"},
                                                                {"__private", "thread"},
                                                                {"SM_DEVICE", "device"},
                                                                {"sm_make<", "<"},
                                                                {"OpenCL", "Metal"}};
  for (auto &[from, to] : terms)
    for (size_t p = 0; (p = s.find(from, p)) != std::string::npos; p += strlen(to)) s.replace(p, strlen(from), to);
  return s;
}
std::string withoutWarnings(const std::string &diagnostics) {
  std::stringstream lines(diagnostics);
  std::string errors, line;
  bool warning = false; // and its notes
  while (std::getline(lines, line)) {
    if (line.find(": note: ") == std::string::npos) warning = line.find(": warning: ") != std::string::npos;
    if (!warning) errors += line + "\n";
  }
  return errors;
}
// Metal converts nothing to bfloat unasked. clang does, and warns of it; its other warnings are dropped.
std::string conversionsToBfloat(const std::string &diagnostics) {
  static const std::string warning = "warning: implicit conversion loses floating-point precision: ";
  std::stringstream lines(diagnostics);
  std::string errors, line;
  bool inside = false; // of a refused line: its notes tell where a template was instantiated
  while (std::getline(lines, line)) {
    if (line.find(": note: ") == std::string::npos) {
      size_t at = line.find(warning), to = line.rfind(" to '");
      inside = at != std::string::npos && to != std::string::npos &&
               (line.find("bfloat'", to) != std::string::npos || line.find("__bf16'", to) != std::string::npos);
      if (inside) line = line.substr(0, at) + "error: bfloat has no implicit conversion from 'float'";
    }
    if (inside) errors += line + "\n";
  }
  return errors;
}
} // namespace

std::string cacheDirectory() {
  static const std::string directory = [] {
    std::string d = environment("SOFTWARE_METAL_CACHE"), base = environment("XDG_CACHE_HOME"),
                home = environment("HOME");
    if (base.empty() && !home.empty()) base = home + "/.cache";
    if (d.empty()) d = base.empty() ? "/tmp/software-metal-" + std::to_string(getuid()) : base + "/software-metal";
    for (size_t slash = 1; (slash = d.find('/', slash)) != std::string::npos; ++slash)
      mkdir(d.substr(0, slash).c_str(), 0755);
    mkdir(d.c_str(), 0755);
    // The worker stays in the folder where it was started.
    char *whole = realpath(d.c_str(), nullptr);
    if (whole) d = whole;
    free(whole);
    return d;
  }();
  return directory;
}

bool preprocess(const std::string &source, const std::vector<std::string> &defines, std::string &out,
                std::string &log) {
  if (compiler().path.empty()) {
    log = missing();
    return false;
  }
  std::string key = source + compiler().version + text::macros;
  for (auto &d : defines) key += d + '\n';
  std::string base = cacheDirectory() + "/e-" + hash(key),
              macros = cacheDirectory() + "/macros-" + hash(text::macros) + ".h", stubs = cacheDirectory() + "/include";
  mkdir(stubs.c_str(), 0755);
  for (const char *n : {"stdlib",         "math",    "simdgroup", "simdgroup_matrix", "atomic",
                        "compute",        "common",  "integer",   "relational",       "geometric",
                        "matrix",         "numeric", "limits",    "type_traits",      "pack",
                        "quadgroup",      "config",  "array",     "extended_vector",  "types",
                        "uniform",        "half",    "texture",   "graphics",         "tessellation",
                        "command_buffer", "utility", "tuple",     "initializer_list", "functional",
                        "packed_vector"})
    if (!once(stubs + "/metal_" + n, [&](const std::string &t) { return write(t, "\n"); })) {
      log = "cannot write " + stubs;
      return false;
    }
  if (!once(macros, [&](const std::string &t) { return write(t, text::macros); })) {
    log = "cannot write " + macros;
    return false;
  }
  bool ok = once(base + ".i", [&](const std::string &t) {
    std::string in = t + ".metal";
    write(in, "#line 1 \"program_source\"\n" + source);
    Result r = compile(with({compiler().path, "-E", "-x", "c++", "-std=c++17", "-undef", "-nostdinc", "-I" + stubs,
                             "-include", macros, "-fno-caret-diagnostics", "-fno-color-diagnostics"},
                            with(defines, {in, "-o", t})));
    unlink(in.c_str());
    log = r.output;
    return r.status == 0;
  });
  if (ok) out = slurp(base + ".i");
  return ok;
}

std::string compileKernels(const std::string &source, Mode mode, const std::vector<std::string> &flags,
                           std::string &log) {
  if (compiler().path.empty()) {
    log = missing();
    return "";
  }
  std::string pch = precompiled(mode, flags, log);
  if (pch.empty()) {
    log = "the stand-in for metal_stdlib does not compile: " + log;
    return "";
  }
  std::string executor = executorPath(log);
  if (executor.empty()) return "";
  std::string library =
      cacheDirectory() + "/k-" +
      hash(source + pch + executor + text::worker + std::to_string(static_cast<int>(mode)) + instrumenterVersion) +
      ".so";
  const char *outcome = "found";
  std::string stages;
  const bool redirect = std::find(flags.begin(), flags.end(), "-DSM_AS_APPLE") != flags.end();
  bool ok = once(library, [&](const std::string &t) {
    outcome = "refused";
    std::string in = t + ".clcpp", object = t + ".o";
    write(in, source);
    std::vector<std::string> front = with(with(with({compiler().path}, dialect()), optimization(mode)), flags);
    front = with(front, {"-include-pch", pch, in});
    Result r;
    std::string diagnostics;
    if (mode == Mode::fast) {
      r = compile(with(front, {"-c", "-o", object}));
      diagnostics = r.output;
      stages += stage("front", r.seconds);
    } else {
      std::string ir = t + ".ll";
      r = compile(with(front, {"-S", "-emit-llvm", "-o", ir}));
      diagnostics = r.output;
      stages += stage("front", r.seconds);
      if (r.status == 0) {
        double begin = processorSeconds();
        write(ir, instrument(slurp(ir), mode == Mode::checked, redirect));
        stages += stage("instrument", processorSeconds() - begin);
        Result second = compile({"emit", "0", ir, object});
        stages += stage("emit", second.seconds);
        if (second.status) {
          r.status = 255;
          r.output = "software device: instrumented code of " + ir + " does not compile: " + second.output;
        }
      }
      if (r.status != 255 && environment("SOFTWARE_METAL_KEEP").empty()) unlink(ir.c_str());
    }
    if (environment("SOFTWARE_METAL_KEEP").empty()) unlink(in.c_str());
    std::string conversions = r.status == 0 ? conversionsToBfloat(diagnostics) : "";
    if (!conversions.empty()) {
      log = metalTerms(conversions);
      unlink(object.c_str());
      return false;
    }
    if (r.status >= 128 && r.status != 255)
      log = "program_source:1:1: error: the compiler crashed on this program (mixed half and bfloat arithmetic does "
            "that)\n";
    else log = metalTerms(withoutWarnings(r.output));
    if (r.status) return false;
    // Linked against the executor, so that a function without a body is an error here, as in Metal.
    Result linked = link(object, executor, t);
    unlink(object.c_str());
    stages += stage("link", linked.seconds);
    if (linked.status == 0) {
      outcome = "made";
      return true;
    }
    size_t p = linked.output.find("undefined reference to "), q = linked.output.find("undefined symbol: ");
    size_t at = p != std::string::npos ? p : q;
    log = at == std::string::npos
              ? linked.output
              : "program_source:1:1: error: " + linked.output.substr(at, linked.output.find('\n', at) - at) + "\n";
    return false;
  });
  record(outcome, mode, library, stages);
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
