#include "driver.h"

#include <dlfcn.h>
#include <stdio.h>

const char* driver_open(driver* table, const char* path) {
  static char message[128];
  if (path == NULL) {
#define TAKE(name) table->name = name;
    DRIVER_FUNCTIONS(TAKE)
#undef TAKE
    return NULL;
  }
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) return dlerror();
  /* The cast is the one that POSIX names for dlsym(). */
#define TAKE(name)                                                              \
  *(void**)&table->name = dlsym(library, #name);                                \
  if (table->name == NULL) {                                                    \
    snprintf(message, sizeof message, "the library does not export %s", #name); \
    return message;                                                             \
  }
  DRIVER_FUNCTIONS(TAKE)
#undef TAKE
  return NULL;
}
