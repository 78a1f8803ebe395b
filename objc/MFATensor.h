/*
 * Arguments of the general calls of MFABridge: views of buffers, quantization, and options. They have the fields of the
 * structs of mfa.h, and keep their buffers alive.
 *
 * These classes, like MFABridge, are written for manual reference counting, which GNUstep's runtime on Linux needs;
 * programs that use them may be compiled with ARC.
 */
#import <Foundation/Foundation.h>
#import <Metal/Metal.h>

#include "mfa.h"

/* Storage of an element. BOOL is for masks only. */
typedef NS_ENUM(int32_t, MFAPrecision) {
  MFAPrecisionFP32 = MFA_PRECISION_FP32,
  MFAPrecisionFP16 = MFA_PRECISION_FP16,
  MFAPrecisionBF16 = MFA_PRECISION_BF16,
  MFAPrecisionINT4 = MFA_PRECISION_INT4,
  MFAPrecisionINT8 = MFA_PRECISION_INT8,
  MFAPrecisionBool = MFA_PRECISION_BOOL
};

/* The elements that share one scale: see enum mfa_granularity. */
typedef NS_ENUM(int32_t, MFAGranularity) {
  MFAGranularityTensor = MFA_GRANULARITY_TENSOR,
  MFAGranularityRow = MFA_GRANULARITY_ROW,
  MFAGranularityBlock = MFA_GRANULARITY_BLOCK,
  MFAGranularityChannel = MFA_GRANULARITY_CHANNEL
};

/* The diagonal of causal masks, windows and ALiBi. */
typedef NS_ENUM(int32_t, MFAAlignment) {
  MFAAlignmentTopLeft = MFA_ALIGNMENT_TOP_LEFT,
  MFAAlignmentBottomRight = MFA_ALIGNMENT_BOTTOM_RIGHT
};

/* Arithmetic of P V when V is INT8 or INT4. */
typedef NS_ENUM(int32_t, MFACompute) {
  MFAComputeExact = MFA_COMPUTE_EXACT,
  MFAComputeFast = MFA_COMPUTE_FAST
};

/* [batch, heads, rows, columns] */
typedef struct MFAShape {
  uint64_t batch, heads, rows, columns;
} MFAShape;

/* Elements from one index to the next; 0 = broadcast (inputs only). */
typedef struct MFAStrides {
  int64_t batch, heads, rows, columns;
} MFAStrides;

MFAShape MFAShapeMake(uint64_t batch, uint64_t heads, uint64_t rows, uint64_t columns);

/* The strides of a tensor without gaps. */
MFAStrides MFAContiguousStrides(MFAShape shape);

/* The real numbers of stored integers: real = scale * (stored - zeroPoint), then rotation, then the mean. */
@interface MFAQuantization : NSObject {
 @private
  MFAGranularity _granularity;
  NSUInteger _blockRows, _groupSize;
  float _scale;
  NSInteger _zeroPoint;
  id<MTLBuffer> _scaleBuffer, _zeroPointBuffer, _meanBuffer;
  uint64_t _scaleOffset, _zeroPointOffset, _meanOffset;
  MFAPrecision _scalePrecision;
  uint32_t _rotation;
  NSUInteger _zeroPointBytes;
  MFAStrides _scaleStrides;
}

/* One scale for the whole tensor. */
+ (instancetype)quantizationWithScale:(float)scale zeroPoint:(NSInteger)zeroPoint;

/* Scales in a buffer, in FP32, without gaps; set what else differs. */
+ (instancetype)quantizationWithGranularity:(MFAGranularity)granularity scales:(id<MTLBuffer>)scales;

@property(nonatomic, assign) MFAGranularity granularity;
@property(nonatomic, assign) NSUInteger blockRows;        /* block, channel: at least 1; otherwise 0 */
@property(nonatomic, assign) NSUInteger groupSize;        /* row: 0 = the whole row, else 32 or 64; otherwise 0 */
@property(nonatomic, assign) float scale;                 /* tensor without scaleBuffer: finite, not 0 */
@property(nonatomic, assign) NSInteger zeroPoint;         /* the same: -128 ... 127 (INT4: -8 ... 7) */
@property(nonatomic, retain) id<MTLBuffer> scaleBuffer;   /* nil only for tensor */
@property(nonatomic, assign) uint64_t scaleOffset;        /* bytes */
@property(nonatomic, assign) MFAPrecision scalePrecision; /* FP32 or FP16 */
@property(nonatomic, assign) MFAStrides scaleStrides;     /* of the array of scales; all 0: without gaps */
@property(nonatomic, assign) uint32_t rotation;           /* 1: rows were rotated before rounding */
@property(nonatomic, retain) id<MTLBuffer> zeroPointBuffer; /* shaped as the scales; nil: all 0 */
@property(nonatomic, assign) uint64_t zeroPointOffset;    /* bytes */
@property(nonatomic, assign) NSUInteger zeroPointBytes;   /* 1 or 4; 0 without a buffer */
@property(nonatomic, retain) id<MTLBuffer> meanBuffer;    /* FP32 [batch, heads, columns]; nil: no mean */
@property(nonatomic, assign) uint64_t meanOffset;         /* bytes */
@end

/* A view of a buffer. */
@interface MFATensor : NSObject {
 @private
  id<MTLBuffer> _buffer;
  uint64_t _byteOffset;
  MFAPrecision _precision;
  MFAShape _shape;
  MFAStrides _strides;
  MFAQuantization *_quantization;
}

/* Without gaps, from the buffer's first byte. */
+ (instancetype)tensorWithBuffer:(id<MTLBuffer>)buffer precision:(MFAPrecision)precision shape:(MFAShape)shape;

@property(nonatomic, retain) id<MTLBuffer> buffer;
@property(nonatomic, assign) uint64_t byteOffset;   /* of element [0, 0, 0, 0]; a multiple of the element's size */
@property(nonatomic, assign) MFAPrecision precision;
@property(nonatomic, assign) MFAShape shape;
@property(nonatomic, assign) MFAStrides strides;
@property(nonatomic, retain) MFAQuantization *quantization; /* for INT8 and INT4; otherwise nil */
@end

/* Options of attention: see mfa_attention_options. Setting a number sets its flag as well. */
@interface MFAAttentionOptions : NSObject {
 @private
  uint32_t _flags;
  float _softmaxScale, _softcap;
  MFAAlignment _alignment;
  MFACompute _compute;
  int64_t _windowLeft, _windowRight;
  MFATensor *_mask, *_alibiSlopes, *_sinks;
  NSUInteger _sequenceCount;
  id<MTLBuffer> _cuSeqlensQ, _cuSeqlensK;
  uint64_t _cuSeqlensQOffset, _cuSeqlensKOffset;
}

+ (instancetype)options;

@property(nonatomic, assign) uint32_t flags;     /* enum mfa_option; the setters below keep it */
@property(nonatomic, assign) float softmaxScale; /* finite; unless set: 1 / sqrt(columns of query) */
@property(nonatomic, assign) BOOL causal;        /* row i sees key positions <= i + shift */
@property(nonatomic, assign) int64_t windowLeft; /* row i sees key positions from i + shift - windowLeft ... */
@property(nonatomic, assign) int64_t windowRight; /* ... to i + shift + windowRight; -1 (unless set) = no limit */
@property(nonatomic, assign) float softcap;      /* finite, >= 0; 0 = none */
@property(nonatomic, assign) MFAAlignment alignment;
@property(nonatomic, assign) MFACompute compute;
@property(nonatomic, retain) MFATensor *mask;        /* Bool (true = attend), or added: FP32, FP16, BF16 */
@property(nonatomic, retain) MFATensor *alibiSlopes; /* FP32 [batch or 1, heads, 1, 1] */
@property(nonatomic, retain) MFATensor *sinks;       /* FP32 [1, heads, 1, 1] */
@property(nonatomic, assign) NSUInteger sequenceCount;   /* packed sequences; 0 = none. Batch is 1 then. */
@property(nonatomic, retain) id<MTLBuffer> cuSeqlensQ;   /* int32_t[sequenceCount + 1], from 0 to the rows of query */
@property(nonatomic, assign) uint64_t cuSeqlensQOffset;  /* bytes */
@property(nonatomic, retain) id<MTLBuffer> cuSeqlensK;   /* the same for the rows of key and value */
@property(nonatomic, assign) uint64_t cuSeqlensKOffset;  /* bytes */
@end

/* One forward call: see mfa_forward_desc. */
@interface MFAForward : NSObject {
 @private
  MFATensor *_query, *_key, *_value, *_output, *_logsumexp;
  MFAAttentionOptions *_options;
}
@property(nonatomic, retain) MFATensor *query;     /* [batch, heads, rows of query, columns] */
@property(nonatomic, retain) MFATensor *key;       /* [batch, key heads, rows of key, columns] */
@property(nonatomic, retain) MFATensor *value;     /* [batch, key heads, rows of key, value columns] */
@property(nonatomic, retain) MFATensor *output;    /* [batch, heads, rows of query, value columns]; written */
@property(nonatomic, retain) MFATensor *logsumexp; /* FP32 [batch, heads, rows of query, 1]; written; may be nil */
@property(nonatomic, retain) MFAAttentionOptions *options; /* nil: all defaults */
@end

/* One backward call: see mfa_backward_desc. Gradients are FP32; those that are nil are not computed. */
@interface MFABackward : NSObject {
 @private
  uint32_t _flags;
  MFATensor *_query, *_key, *_value, *_output, *_gradOutput, *_logsumexp, *_dValues;
  MFATensor *_gradQuery, *_gradKey, *_gradValue, *_gradMask, *_gradSinks;
  MFAAttentionOptions *_options;
}
@property(nonatomic, assign) uint32_t flags;       /* enum mfa_backward_flag */
@property(nonatomic, retain) MFATensor *query;     /* as in forward */
@property(nonatomic, retain) MFATensor *key;
@property(nonatomic, retain) MFATensor *value;
@property(nonatomic, retain) MFATensor *output;    /* of forward; may be nil */
@property(nonatomic, retain) MFATensor *gradOutput;
@property(nonatomic, retain) MFATensor *logsumexp; /* of forward */
@property(nonatomic, retain) MFATensor *dValues;   /* written, or read with MFA_BACKWARD_D_GIVEN; may be nil */
@property(nonatomic, retain) MFATensor *gradQuery;
@property(nonatomic, retain) MFATensor *gradKey;
@property(nonatomic, retain) MFATensor *gradValue;
@property(nonatomic, retain) MFATensor *gradMask;
@property(nonatomic, retain) MFATensor *gradSinks;
@property(nonatomic, retain) MFAAttentionOptions *options; /* as in forward */
@end
