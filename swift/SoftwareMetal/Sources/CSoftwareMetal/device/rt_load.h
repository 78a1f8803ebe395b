R"SM(
// Executor, part 6: what runs while a kernel library is loaded.
namespace {
thread_local SmLoad *loading = nullptr;
}
SM_EXPORT void sm_begin_load(SmLoad *l) { loading = l; }
SM_EXPORT void sm_end_load() { loading = nullptr; }
SM_EXPORT uint32_t sm_constant(uint32_t index, uint32_t size, void *out) {
  for (uint32_t i = 0; loading && i < loading->count; ++i) {
    const SmConstant &c = loading->constants[i];
    if (c.index != index) continue;
    if (size && size != c.size && loading->mismatch < 0) {
      loading->mismatch = int32_t(index);
      loading->expectedSize = size;
      loading->foundSize = c.size;
    }
    if (size) memcpy(out, c.value, std::min(size, c.size));
    return 1;
  }
  return 0;
}
SM_EXPORT void sm_register_static(uint32_t id, uint32_t size) {
  if (loading && id < 256) loading->staticSizes[id] = std::max(loading->staticSizes[id], size);
}
)SM"
