/* Memory whose last byte lies before a page that must not be touched: a driver that reads or writes one byte too many stops
 * at once, with no help from a sanitizer. */
#ifndef GUARDED_H
#define GUARDED_H

#include <stdint.h>

/* `size` bytes; ends the program if there are none to be had. Its start is aligned to any power of two that divides both
 * `size` and a page. */
unsigned char* guarded_create(uint64_t size);
void guarded_destroy(unsigned char* bytes, uint64_t size);

#endif
