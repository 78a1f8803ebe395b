/* Memory whose last byte is stored before a page that must not be touched: a driver that reads or writes one byte too many stops
 * at once, with no help from a sanitizer. */
#ifndef GUARDED_H
#define GUARDED_H

#include <stdint.h>

/* `size` bytes, of which the first is aligned (to a power of two below a page); ends the program if the allocation fails.
 * Unless `alignment` divides `size`, fewer than `alignment` bytes are between the last one and the page. */
unsigned char* guarded_create(uint64_t size, uint64_t alignment);
void guarded_destroy(unsigned char* bytes, uint64_t size, uint64_t alignment);

#endif
