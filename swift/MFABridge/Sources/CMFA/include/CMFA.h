/* The contract for Swift: the one header, and a sentence per thread, which Swift has no storage for. */
#ifndef CMFA_H
#define CMFA_H

#include "../../../../../crates/mfa-sys/include/mfa.h"

/* Keeps `sentence` for the calling thread, cut to what there is room for. */
__attribute__((visibility("hidden"))) void cmfa_keep_sentence(const char* sentence, size_t length);

/* The calling thread's sentence: NUL-terminated, valid until the thread keeps another one; "" at first. */
__attribute__((visibility("hidden"))) const char* cmfa_sentence(void);

#endif
