// The C interface that Swift calls.
#include "CSoftwareMetal.h"
#include "abi.h"
#include "compiler.hpp"
#include "frontend.hpp"
#include <algorithm>
#include <atomic>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <memory>
#include <mutex>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

using namespace softmetal;

namespace {
constexpr uint64_t page = 4096;
char *duplicate(const std::string &s) { return strdup(s.c_str()); }
uint64_t pages(uint64_t n) { return (n + page - 1) / page * page; }
void *reserve(uint64_t n, int protection) {
  void *p = mmap(nullptr, n, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? nullptr : p;
}
} // namespace

struct sm_buffer {
  uint8_t *base = nullptr;
  uint64_t length = 0;
  void *map = nullptr;
  uint64_t mapLength = 0;
  std::mutex lock;
  SmCell *words = nullptr, *bytes = nullptr;

  uint8_t *aligned() const { return reinterpret_cast<uint8_t *>(reinterpret_cast<uintptr_t>(base) & ~uintptr_t(3)); }
  uint64_t words4() const { return length / 4 + 2; }
  bool shadow() {
    std::lock_guard<std::mutex> g(lock);
    if (!words) words = static_cast<SmCell *>(reserve(words4() * sizeof(SmCell), PROT_READ | PROT_WRITE));
    if (!bytes) bytes = static_cast<SmCell *>(reserve(words4() * 4 * sizeof(SmCell), PROT_READ | PROT_WRITE));
    return words && bytes;
  }
  ~sm_buffer() {
    if (words) munmap(words, words4() * sizeof(SmCell));
    if (bytes) munmap(bytes, words4() * 4 * sizeof(SmCell));
    if (map) munmap(map, mapLength);
  }
};
struct sm_library {
  Unit unit;
  Mode mode;
  bool asApple = false;
  std::string path;
  const Kernel *kernel(const char *name) const {
    for (auto &k : unit.kernels)
      if (k.hostName == name) return &k;
    return nullptr;
  }
};
struct sm_pipeline {
  void *handle = nullptr;
  void (*entry)(void *) = nullptr;
  int (*run)(SmDispatch *) = nullptr;
  std::string kernel;
  Mode mode = Mode::fast;
  bool asApple = false;
  uint32_t maxThreads = 1024, statics = 0, staticLength = 0, sizes[256] = {};
  uint32_t blocks = 0, sites = 0;
  const uint32_t *costs = nullptr, *lines = nullptr;
  const uint8_t *imageBegin = nullptr, *imageEnd = nullptr;
  ~sm_pipeline() {
    if (handle) dlclose(handle);
  }
};

extern "C" {
uint64_t sm_page_size(void) { return page; }
void sm_free(char *s) { free(s); }

sm_buffer *sm_buffer_create(uint64_t length) {
  if (length == 0 || length > (1ull << 40)) return nullptr;
  auto b = std::make_unique<sm_buffer>();
  uint64_t span = pages(length);
  b->mapLength = span + 2 * page;
  b->map = reserve(b->mapLength, PROT_NONE);
  if (!b->map) return nullptr;
  auto *first = static_cast<uint8_t *>(b->map) + page;
  if (mprotect(first, span, PROT_READ | PROT_WRITE) != 0) return nullptr;
  // The end is at the guard page, the start is aligned for every vector type.
  b->base = first + ((span - length) & ~uint64_t(15));
  b->length = length;
  return b.release();
}
sm_buffer *sm_buffer_wrap(void *memory, uint64_t length) {
  if (!memory || !length) return nullptr;
  auto b = std::make_unique<sm_buffer>();
  b->base = static_cast<uint8_t *>(memory);
  b->length = length;
  return b.release();
}
void sm_buffer_destroy(sm_buffer *b) { delete b; }
void *sm_buffer_contents(const sm_buffer *b) { return b->base; }

sm_library *sm_library_create(const char *source, const char *const *macros, size_t count, int mode, uint32_t settings,
                              int version, char **error) {
  std::vector<std::string> defines;
  for (size_t i = 0; i < count; ++i) defines.push_back("-D" + std::string(macros[i]));
  std::string text = source, log;
  LexResult lexed = lex(text);
  const std::string metalVersion = "-D__METAL_VERSION__=" + std::to_string(version);
  if (lexed.needsPreprocessor || !defines.empty()) {
    defines.push_back(metalVersion);
    std::string expanded;
    if (!preprocess(text, defines, expanded, log)) {
      *error = duplicate(log);
      return nullptr;
    }
    lexed = lex(expanded);
  }
  auto l = std::make_unique<sm_library>();
  l->mode = static_cast<Mode>(std::clamp(mode, 0, 2));
  FrontendOptions options;
  options.allowInlineAIR = settings & SM_ALLOW_INLINE_AIR;
  l->unit = translate(lexed.tokens, options);
  if (!l->unit.errors.empty()) {
    for (auto &e : l->unit.errors) log += e + "\n";
    *error = duplicate(log);
    return nullptr;
  }
  std::vector<std::string> flags;
  if (l->unit.heldReferences) flags.push_back("-DSM_HELD_REFERENCES");
  if (version != 310) flags.push_back(metalVersion);
  if (settings & SM_FUNCTION_ERRORS) flags.push_back("-DSM_FUNCTION_ERRORS");
  if (settings & SM_FUNCTION_ERRORS && settings & SM_PRECISE_FUNCTIONS) flags.push_back("-DSM_PRECISE_FUNCTIONS");
  l->asApple = settings & SM_AS_APPLE;
  if (l->asApple) flags.push_back("-DSM_AS_APPLE");
  if (settings & SM_FLUSH_SUBNORMALS) { // what the compiler computes itself
    flags.push_back("-Xclang");
    flags.push_back("-fdenormal-fp-math-f32=preserve-sign,preserve-sign");
  }
  l->path = compileKernels(l->unit.text, l->mode, flags, log);
  if (l->path.empty()) {
    *error = duplicate(log);
    return nullptr;
  }
  return l.release();
}
void sm_library_destroy(sm_library *l) { delete l; }
int sm_library_mode(const sm_library *l) { return static_cast<int>(l->mode); }
size_t sm_library_kernel_count(const sm_library *l) { return l->unit.kernels.size(); }
const char *sm_library_kernel_name(const sm_library *l, size_t i) {
  return i < l->unit.kernels.size() ? l->unit.kernels[i].hostName.c_str() : "";
}
size_t sm_library_constant_count(const sm_library *l) { return l->unit.constants.size(); }
const char *sm_library_constant_name(const sm_library *l, size_t i) { return l->unit.constants[i].name.c_str(); }
const char *sm_library_constant_type(const sm_library *l, size_t i) { return l->unit.constants[i].type.c_str(); }
int sm_library_constant_index(const sm_library *l, size_t i) { return l->unit.constants[i].index; }
int sm_library_constant_required(const sm_library *l, const char *kernel, size_t i) {
  const FunctionConstant &c = l->unit.constants[i];
  const Kernel *k = l->kernel(kernel);
  if (c.optional || !k) return 0;
  // Used by the kernel, or by what it calls.
  std::set<std::string> seen{k->baseName};
  std::vector<std::string> work{k->baseName};
  while (!work.empty()) {
    auto m = l->unit.mentions.find(work.back());
    work.pop_back();
    if (m == l->unit.mentions.end()) continue;
    if (m->second.count(c.name)) return 1;
    for (auto &n : m->second)
      if (seen.insert(n).second) work.push_back(n);
  }
  return 0;
}
size_t sm_library_argument_count(const sm_library *l, const char *k) {
  auto *f = l->kernel(k);
  return f ? f->arguments.size() : 0;
}
const char *sm_library_argument_name(const sm_library *l, const char *k, size_t i) {
  return l->kernel(k)->arguments[i].name.c_str();
}
const char *sm_library_argument_attribute(const sm_library *l, const char *k, size_t i) {
  return l->kernel(k)->arguments[i].attribute.c_str();
}
int sm_library_argument_index(const sm_library *l, const char *k, size_t i) { return l->kernel(k)->arguments[i].index; }
int sm_library_argument_writable(const sm_library *l, const char *k, size_t i) {
  return l->kernel(k)->arguments[i].writable;
}

sm_pipeline *sm_pipeline_create(sm_library *l, const char *name, const sm_constant_value *values, size_t count,
                                char **error) {
  static_assert(sizeof(sm_constant_value) == sizeof(SmConstant));
  static_assert(sizeof(sm_counters) == sizeof(SmCounters));
  static std::mutex lock; // loading runs initialisers that read one table
  std::string log;
  void *executor = executorHandle(log);
  if (!executor) {
    *error = duplicate(log);
    return nullptr;
  }
  auto begin = reinterpret_cast<void (*)(SmLoad *)>(dlsym(executor, "sm_begin_load"));
  auto end = reinterpret_cast<void (*)()>(dlsym(executor, "sm_end_load"));
  if (!begin || !end) {
    *error = duplicate("software device: the executor is damaged");
    return nullptr;
  }
  auto p = std::make_unique<sm_pipeline>();
  p->run = reinterpret_cast<int (*)(SmDispatch *)>(dlsym(executor, "sm_run"));
  auto kernel =
      std::find_if(l->unit.kernels.begin(), l->unit.kernels.end(), [&](const Kernel &k) { return k.hostName == name; });
  if (kernel == l->unit.kernels.end()) {
    *error = duplicate(std::string("the library has no kernel named '") + name + "'");
    return nullptr;
  }
  p->kernel = name;
  p->mode = l->mode;
  p->asApple = l->asApple;
  if (kernel->maxThreads) p->maxThreads = static_cast<uint32_t>(kernel->maxThreads);

  // A private copy of the image gives each pipeline its own function constants.
  // (The loader tells images apart by name and inode.)
  static std::atomic<unsigned> copies{0};
  std::string copy = cacheDirectory() + "/p-" + std::to_string(getpid()) + "-" + std::to_string(copies++) + ".so";
  int from = open(l->path.c_str(), O_RDONLY | O_CLOEXEC),
      to = open(copy.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0700);
  struct stat info{};
  bool copied = from >= 0 && to >= 0 && fstat(from, &info) == 0;
  for (off_t done = 0; copied && done < info.st_size;) {
    ssize_t n = sendfile(to, from, &done, static_cast<size_t>(info.st_size - done));
    copied = n > 0;
  }
  SmLoad load{};
  load.constants = reinterpret_cast<const SmConstant *>(values);
  load.count = static_cast<uint32_t>(count);
  load.mismatch = -1;
  if (copied) {
    std::lock_guard<std::mutex> g(lock);
    begin(&load);
    p->handle = dlopen(copy.c_str(), RTLD_NOW | RTLD_LOCAL);
    end();
    if (!p->handle) log = dlerror();
  } else log = "cannot copy " + l->path;
  if (from >= 0) close(from);
  if (to >= 0) {
    close(to);
    unlink(copy.c_str());
  }
  if (!p->handle) {
    *error = duplicate("software device: " + log);
    return nullptr;
  }
  if (load.mismatch >= 0) {
    *error = duplicate("function constant " + std::to_string(load.mismatch) + " was set with a value of " +
                       std::to_string(load.foundSize) + " bytes, its type in the program has " +
                       std::to_string(load.expectedSize));
    return nullptr;
  }
  p->entry = reinterpret_cast<void (*)(void *)>(
      dlsym(p->handle, ("sm_entry" + std::to_string(kernel - l->unit.kernels.begin())).c_str()));
  if (!p->entry) {
    *error = duplicate("software device: no entry for kernel '" + p->kernel + "'");
    return nullptr;
  }
  for (auto &v : l->unit.variables) {
    if (v.kernel != kernel->baseName) continue;
    p->sizes[v.id] = load.staticSizes[v.id];
    p->staticLength += (load.staticSizes[v.id] + 15) / 16 * 16;
  }
  p->statics = static_cast<uint32_t>(l->unit.variables.empty() ? 0 : l->unit.variables.back().id + 1);
  if (l->mode != Mode::fast) {
    auto *sizes = static_cast<const uint32_t *>(dlsym(p->handle, "sm_table_sizes"));
    if (!sizes) {
      *error = duplicate("software device: the library of kernel '" + p->kernel + "' has no tables");
      return nullptr;
    }
    p->blocks = sizes[0];
    p->sites = sizes[1];
    p->costs = static_cast<const uint32_t *>(dlsym(p->handle, "sm_block_costs"));
    p->lines = static_cast<const uint32_t *>(dlsym(p->handle, "sm_site_lines"));
  }
  link_map *map = nullptr;
  if (dlinfo(p->handle, RTLD_DI_LINKMAP, &map) == 0 && map) {
    struct Image {
      uintptr_t base;
      const uint8_t *low, *high;
    } image{map->l_addr, nullptr, nullptr};
    dl_iterate_phdr(
        [](dl_phdr_info *i, size_t, void *data) {
          auto *im = static_cast<Image *>(data);
          if (i->dlpi_addr != im->base) return 0;
          for (int k = 0; k < i->dlpi_phnum; ++k)
            if (i->dlpi_phdr[k].p_type == PT_LOAD) {
              auto *a = reinterpret_cast<const uint8_t *>(i->dlpi_addr + i->dlpi_phdr[k].p_vaddr);
              if (!im->low || a < im->low) im->low = a;
              im->high = std::max(im->high, a + i->dlpi_phdr[k].p_memsz);
            }
          return 1;
        },
        &image);
    p->imageBegin = image.low;
    p->imageEnd = image.high;
  }
  return p.release();
}
void sm_pipeline_destroy(sm_pipeline *p) { delete p; }
uint32_t sm_pipeline_static_length(const sm_pipeline *p) { return p->staticLength; }
uint32_t sm_pipeline_max_threads(const sm_pipeline *p) { return p->maxThreads; }

int sm_pipeline_dispatch(sm_pipeline *p, sm_dispatch *s) {
  static std::atomic<uint64_t> serial{1};
  constexpr uint64_t stride = 1ull << 32;
  static uint8_t *const unbound = static_cast<uint8_t *>(reserve(stride * SM_MAX_BUFFERS, PROT_NONE));
  auto d = std::make_unique<SmDispatch>();
  memset(d.get(), 0, sizeof *d);
  for (int i = 0; i < 3; ++i) {
    d->threads[i] = s->threads[i];
    d->groups[i] = s->groups[i];
    d->groupSize[i] = s->group_size[i];
  }
  uint64_t groups = uint64_t(s->groups[0]) * s->groups[1] * s->groups[2];
  d->unbound = unbound;
  d->unboundStride = stride;
  d->checked = p->mode == Mode::checked;
  for (int i = 0; i < SM_MAX_BUFFERS; ++i) {
    d->dynamicLength[i] = s->dynamic_length[i];
    sm_buffer *b = s->bindings[i].buffer;
    if (!b) continue;
    d->bindings[i].base = b->base + s->bindings[i].offset;
    d->bindings[i].length = s->bindings[i].length;
    if (d->checked && !b->shadow()) return 2;
    d->bindings[i].allocation = b->aligned();
    d->bindings[i].words = b->words;
    d->bindings[i].bytes = b->bytes;
  }
  memcpy(d->tgSizes, p->sizes, sizeof p->sizes);
  d->tgStatics = p->statics;
  d->workers = s->workers;
  d->order = s->order;
  d->seed = s->seed;
  d->flush = s->flush_subnormals;
  d->asApple = p->asApple;
  d->blocks = p->blocks;
  d->sites = p->sites;
  d->blockCosts = p->costs;
  d->siteLines = p->lines;
  d->imageBegin = p->imageBegin;
  d->imageEnd = p->imageEnd;
  d->entry = p->entry;
  d->kernel = p->kernel.c_str();
  d->firstSerial = serial.fetch_add(groups);
  int status = p->run(d.get());
  memcpy(&s->counters, &d->counters, sizeof s->counters);
  auto copy = [](sm_finding &to, const SmFinding &from) {
    to.kind = from.kind;
    to.buffer = from.buffer;
    to.line = from.line;
    to.simdgroup = from.simdgroup;
    to.lane = from.lane;
    memcpy(to.threadgroup, from.threadgroup, sizeof to.threadgroup);
    memcpy(to.thread, from.thread, sizeof to.thread);
    memcpy(to.message, from.message, sizeof to.message);
  };
  copy(s->finding, d->finding);
  static_assert(int(SM_NOTE_COUNT) == int(SM_MAX_NOTES));
  s->noted = d->noted;
  for (uint32_t i = 0; i < d->noted; ++i) copy(s->notes[i], d->notes[i]);
  return status;
}
}
