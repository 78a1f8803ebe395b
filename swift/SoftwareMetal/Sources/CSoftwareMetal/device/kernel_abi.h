R"SM(
// The state that kernel code and executor share of a thread and of its SIMD group. Both compile this text.
#pragma once
// SM_PLAIN: the address space of everything that is neither device nor threadgroup memory.
enum { SM_LOG = 256, SM_LANES = 32 };
enum SmKind {
  SM_DEPOSIT = 1,
  SM_MMA,
  SM_LOAD,
  SM_STORE,
  SM_FILL,
  SM_DIAGONAL,
  SM_SHUFFLE,
  SM_REDUCE,
  SM_BALLOT,
  SM_BARRIER,
  SM_COPY,
  SM_WAIT
};
enum SmElement { SM_FLOAT, SM_HALF, SM_BFLOAT };

struct SmLogEntry {
  unsigned long key;
  unsigned id;
  unsigned value;
};
struct SmSlot {
  unsigned refs;
  unsigned short deposits;
  unsigned char ready;
  unsigned char element;
};

// Matrices of a SIMD group are immutable values in numbered slots, 64 floats each. Every lane runs the same
// sequence of matrix operations, kept in `log`: the first lane to reach one logs and executes it for all 32,
// the others follow by comparing keys. Lanes therefore need no rendezvous until one reads a
// matrix that waits for elements deposited by lanes still behind.
struct SmSimd {
  unsigned head, freeCount;
  unsigned live, arrived;
  SM_PLAIN SmSlot *slots;
  SM_PLAIN float *values;
  SM_PLAIN unsigned short *freeList;
  SmLogEntry log[SM_LOG];
  unsigned char exchange[2][SM_LANES][32];
};

struct SmLane {
  SM_PLAIN SmSimd *simd;
  unsigned pos, lane, parity, site;
  SM_PLAIN unsigned char *SM_PLAIN *buffers;
  SM_PLAIN unsigned char *SM_PLAIN *tgDynamic;
  SM_PLAIN unsigned char *tgStatic;
  SM_PLAIN const unsigned *tgOffsets;
  unsigned threadInGrid[3], threadInGroup[3], groupInGrid[3], groupSize[3], nominalSize[3], groups[3], gridSize[3];
  unsigned threadIndex, simdIndex, simdCount, nominalSimdCount, index;
};
)SM"
