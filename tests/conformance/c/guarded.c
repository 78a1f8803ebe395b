/* For MAP_ANONYMOUS, which C99 does not know. */
#define _DEFAULT_SOURCE
#define _DARWIN_C_SOURCE

#include "guarded.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static uint64_t page(void) { return (uint64_t)sysconf(_SC_PAGESIZE); }

static uint64_t whole_pages(uint64_t size) { return (size + page() - 1) / page() * page(); }

unsigned char* guarded_create(uint64_t size, uint64_t alignment) {
  uint64_t usable = whole_pages(size), place = (size + alignment - 1) / alignment * alignment;
  unsigned char* start = mmap(NULL, usable + page(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED || mprotect(start + usable, page(), PROT_NONE) != 0) {
    perror("guarded memory");
    exit(2);
  }
  return start + usable - place;
}

void guarded_destroy(unsigned char* bytes, uint64_t size, uint64_t alignment) {
  uint64_t usable = whole_pages(size), place = (size + alignment - 1) / alignment * alignment;
  munmap(bytes + place - usable, usable + page());
}
