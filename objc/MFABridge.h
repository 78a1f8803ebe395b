/*
 * MFABridge: exact attention on Metal buffers whose elements may be FP32, FP16, BF16, INT8 or INT4.
 *
 *   MFABridge *bridge = [[MFABridge alloc] initWithDevice:MTLCreateSystemDefaultDevice()];
 *   double seconds = [bridge runAttentionWithQ:q K:k V:v O:o seqLength:n headDim:d scale:1 / sqrtf(d) causal:YES];
 *
 * A bridge is a context of the C contract (mfa.h) in Objective-C: the program is linked with a driver library,
 * libMFABridge on Apple silicon or libmfa_cpu anywhere. Shapes, units and limits are those of mfa.h.
 *
 * Time    Every run method returns the seconds that its work took on the device, and has finished when it returns.
 * Errors  On failure it returns NaN, and `error` (which may be NULL) receives an NSError of MFAErrorDomain: its code is
 *         the contract's status (enum mfa_status), its localizedDescription says what was wrong, what was found and
 *         what was expected. A failed call has not changed an output, unless its code is MFA_ERROR_KERNEL_EXECUTION.
 *         Nil buffers, buffers that are too short, lengths of 0 and unknown precisions are errors, never exceptions.
 * Threads A bridge may be used from several threads; its calls run one after another.
 */
#import "MFATensor.h"

extern NSString *const MFAErrorDomain;

/* The kind of a device: see enum mfa_device_kind. */
typedef NS_ENUM(int32_t, MFADeviceKind) {
  MFADeviceKindCPU = MFA_DEVICE_CPU,
  MFADeviceKindGPU = MFA_DEVICE_GPU,
  MFADeviceKindAccelerator = MFA_DEVICE_ACCELERATOR
};

/* The sizes of tensors [batch, heads, seqLength, headDim] without gaps: at least 1 each, headDim at most 512. */
typedef struct MFADimensions {
  NSUInteger batch, heads, seqLengthQ, seqLengthKV, headDim;
} MFADimensions;

/* The storage of an operand of MFADimensions. */
typedef struct MFAStorage {
  MFAPrecision precision;
  BOOL transposed;   /* each head's matrix is [headDim, seqLength] (not for INT4) */
  float scale;       /* INT8, INT4: real = scale * (stored - zeroPoint) */
  int32_t zeroPoint; /* INT8, INT4 */
} MFAStorage;

MFADimensions MFADimensionsMake(NSUInteger batch, NSUInteger heads, NSUInteger seqLengthQ, NSUInteger seqLengthKV,
                                NSUInteger headDim);
/* FP32, FP16 or BF16, not transposed. */
MFAStorage MFAStorageMake(MFAPrecision precision);
/* INT8 or INT4, not transposed. */
MFAStorage MFAStorageQuantized(MFAPrecision precision, float scale, int32_t zeroPoint);

/* The record of a forward call for its gradients: the operands, which it keeps alive, their storage and dimensions. */
@interface MFAForwardRecord : NSObject {
 @private
  NSArray *_operands;
  MFAStorage _storage[3];
  MFADimensions _dimensions;
}
@end

@interface MFABridge : NSObject {
 @private
  void *_context;
  id<MTLDevice> _device;
  NSString *_deviceName, *_deviceVendor, *_deviceBackend;
  MFADeviceKind _deviceKind;
}

/* Nil without a device, or if no driver can use it; initWithDevice:error: says why. */
- (instancetype)initWithDevice:(id<MTLDevice>)device;
- (instancetype)initWithDevice:(id<MTLDevice>)device error:(NSError **)error;

/* The device that the driver works on: the Metal device's name, or that of the processor if the driver is the CPU's. */
@property(nonatomic, readonly) NSString *deviceName;
@property(nonatomic, readonly) MFADeviceKind deviceKind;
@property(nonatomic, readonly) NSString *deviceVendor;  /* @"" if the driver does not know it */
@property(nonatomic, readonly) NSString *deviceBackend; /* the interface that it is programmed by: @"cpu", @"metal" */

/* Worker threads of a driver on the processor; 0 asks for the default. Other drivers ignore it. */
- (NSUInteger)threadCount;
- (BOOL)setThreadCount:(NSUInteger)threads error:(NSError **)error;

/* ---------------------------------------------------------------------------------------------------- one head ---- */

/* O = softmax(scale * Q K^T) V on one head of FP32 matrices [seqLength, headDim]. causal: row i sees rows 0 ... i. */
- (double)runAttentionWithQ:(id<MTLBuffer>)qBuffer K:(id<MTLBuffer>)kBuffer V:(id<MTLBuffer>)vBuffer
                          O:(id<MTLBuffer>)oBuffer seqLength:(NSUInteger)seqLength headDim:(NSUInteger)headDim
                      scale:(float)scale causal:(BOOL)causal;
- (double)runAttentionWithQ:(id<MTLBuffer>)qBuffer K:(id<MTLBuffer>)kBuffer V:(id<MTLBuffer>)vBuffer
                          O:(id<MTLBuffer>)oBuffer seqLength:(NSUInteger)seqLength headDim:(NSUInteger)headDim
                      scale:(float)scale causal:(BOOL)causal error:(NSError **)error;

/* ---------------------------------------------------------------------------- batches and heads without gaps ---- */

/* FP32, FP16 and BF16 operands, each in its own precision; O is FP32. */
- (double)runAttentionWithQ:(id<MTLBuffer>)qBuffer storage:(MFAStorage)qStorage K:(id<MTLBuffer>)kBuffer
                    storage:(MFAStorage)kStorage V:(id<MTLBuffer>)vBuffer storage:(MFAStorage)vStorage
                          O:(id<MTLBuffer>)oBuffer transposed:(BOOL)oTransposed dimensions:(MFADimensions)dimensions
                      scale:(float)scale causal:(BOOL)causal error:(NSError **)error;

/* Operands of any precision. logsumexp: FP32 [batch, heads, seqLengthQ], natural; may be nil. If `record` is not NULL
 * it receives what the two gradients need (nil on failure). */
- (double)runQuantizedAttentionWithQ:(id<MTLBuffer>)qBuffer storage:(MFAStorage)qStorage K:(id<MTLBuffer>)kBuffer
                             storage:(MFAStorage)kStorage V:(id<MTLBuffer>)vBuffer storage:(MFAStorage)vStorage
                                   O:(id<MTLBuffer>)oBuffer transposed:(BOOL)oTransposed
                           logsumexp:(id<MTLBuffer>)logsumexp dimensions:(MFADimensions)dimensions scale:(float)scale
                              causal:(BOOL)causal record:(MFAForwardRecord **)record error:(NSError **)error;

/* dQ, and D = rowsum(dO * O) for the next call. gradO is stored as O was, gradQ as Q; all are FP32. */
- (double)runBackwardQueryWithRecord:(MFAForwardRecord *)record gradO:(id<MTLBuffer>)gradO
                           logsumexp:(id<MTLBuffer>)logsumexp gradQ:(id<MTLBuffer>)gradQ dValues:(id<MTLBuffer>)dValues
                               error:(NSError **)error;

/* dK and dV, from the D of the call above. */
- (double)runBackwardKeyValueWithRecord:(MFAForwardRecord *)record gradO:(id<MTLBuffer>)gradO
                              logsumexp:(id<MTLBuffer>)logsumexp dValues:(id<MTLBuffer>)dValues
                                  gradK:(id<MTLBuffer>)gradK gradV:(id<MTLBuffer>)gradV error:(NSError **)error;

/* ----------------------------------------------------------------------------------------- the general calls ---- */

/* Everything that attention means here: views with strides, grouped heads, masks, any quantization. */
- (double)runForward:(MFAForward *)forward error:(NSError **)error;
- (double)runBackward:(MFABackward *)backward error:(NSError **)error;

/* Rounds `source` (FP32, FP16, BF16) into `destination`, whose quantization names the buffers for scales, zero points
 * and mean. flags: enum mfa_quantize_flag. report: the rounding error; may be NULL. */
- (double)quantize:(MFATensor *)source into:(MFATensor *)destination flags:(uint32_t)flags
            report:(mfa_quantization_error *)report error:(NSError **)error;

/* The same into new buffers of the device: symmetric, with scales in FP32, one for the tensor, for each row, or for
 * each block or channel of blockRows rows (0 otherwise). Nil on failure. */
- (MFATensor *)tensorByQuantizing:(MFATensor *)source precision:(MFAPrecision)precision
                      granularity:(MFAGranularity)granularity blockRows:(NSUInteger)blockRows
                           report:(mfa_quantization_error *)report error:(NSError **)error;

/* Writes the real values of `source` (INT8, INT4) to `destination` (FP32, FP16, BF16) of the same shape. */
- (double)dequantize:(MFATensor *)source into:(MFATensor *)destination error:(NSError **)error;

/* The plan of a call and the reason for it, as lines of `key: value`; nil on failure. Nothing runs. */
- (NSString *)explainForward:(MFAForward *)forward error:(NSError **)error;
- (NSString *)explainBackward:(MFABackward *)backward error:(NSError **)error;

/* Bytes that a call would allocate beside its outputs, at most. */
- (BOOL)getWorkspaceSize:(uint64_t *)bytes ofForward:(MFAForward *)forward error:(NSError **)error;
- (BOOL)getWorkspaceSize:(uint64_t *)bytes ofBackward:(MFABackward *)backward error:(NSError **)error;

@end
