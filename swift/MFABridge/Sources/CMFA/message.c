#include "CMFA.h"

#include <string.h>

/* Long enough for the diagnostics of a kernel that was refused. */
static _Thread_local char kept[8192];

void cmfa_set_message(const char* message, size_t length) {
  size_t room = sizeof kept - 1;
  size_t cut = length < room ? length : room;
  /* Not inside a UTF-8 sequence. */
  while (cut < length && cut > 0 && ((unsigned char)message[cut] & 0xC0) == 0x80) cut--;
  memcpy(kept, message, cut);
  kept[cut] = '\0';
}

const char* cmfa_message(void) { return kept; }
