#import "MFACall.h"

#import "MFAMemory.h"

@implementation MFAHandle

@synthesize buffer = _buffer;
@synthesize handle = _handle;

- (instancetype)initWithBuffer:(id<MTLBuffer>)buffer context:(void *)context status:(int32_t *)status {
  self = [super init];
  if (self == nil) return nil;
#if defined(__APPLE__)
  *status = mfa_buffer_from_mtl(context, (__bridge void *)buffer, &_handle);
  /* A driver that is not Metal's works on the bytes, which Apple silicon shares with the processor. */
  if (*status == MFA_ERROR_UNSUPPORTED && [buffer contents] != NULL)
    *status = mfa_buffer_from_ptr(context, [buffer contents], [buffer length], &_handle);
#else
  *status = mfa_buffer_from_ptr(context, [buffer contents], [buffer length], &_handle);
#endif
  if (*status != MFA_SUCCESS) {
    MFA_RELEASE(self);
    return nil;
  }
  _buffer = MFA_RETAIN(buffer);
  return self;
}

- (void)dealloc {
  mfa_destroy_buffer(_handle);
  MFA_RELEASE(_buffer);
  MFA_DEALLOC();
}

@end

/* Clamps to the range of the contract's type: the nearest number is refused by the driver as well. */
static uint32_t narrow(NSUInteger number) { return number > UINT32_MAX ? UINT32_MAX : (uint32_t)number; }

static int32_t narrow_signed(NSInteger number) {
  return number > INT32_MAX ? INT32_MAX : number < INT32_MIN ? INT32_MIN : (int32_t)number;
}

@implementation MFACall

@synthesize status = _status;

- (instancetype)initWithContext:(void *)context {
  self = [super init];
  if (self != nil) {
    _context = context;
    _handles = [[NSMutableArray alloc] init];
    _structs = [[NSMutableArray alloc] init];
  }
  return self;
}

- (void)dealloc {
  MFA_RELEASE(_handles);
  MFA_RELEASE(_structs);
  MFA_DEALLOC();
}

- (MFAHandle *)keptHandleOf:(id<MTLBuffer>)buffer {
  if (buffer == nil) return nil;
  for (MFAHandle *known in _handles) {
    if (known.buffer == buffer) return known;
  }
  /* The message of the first failure is the one that counts. */
  if (_status != MFA_SUCCESS) return nil;
  MFAHandle *made = [[MFAHandle alloc] initWithBuffer:buffer context:_context status:&_status];
  if (made == nil) return nil;
  [_handles addObject:made];
  MFA_RELEASE(made);
  return made;
}

- (void *)handleOf:(id<MTLBuffer>)buffer {
  MFAHandle *kept = [self keptHandleOf:buffer];
  return kept == nil ? NULL : kept.handle;
}

/* A copy of a struct that lives as long as the call. */
- (const void *)keep:(const void *)bytes length:(NSUInteger)length {
  NSData *copy = [[NSData alloc] initWithBytes:bytes length:length];
  [_structs addObject:copy];
  MFA_RELEASE(copy);
  return [copy bytes];
}

- (const mfa_quantization *)quantizationOf:(MFAQuantization *)quantization {
  if (quantization == nil) return NULL;
  MFAStrides strides = quantization.scaleStrides;
  mfa_quantization result = {
      .struct_size = sizeof result,
      .granularity = quantization.granularity,
      .block_rows = narrow(quantization.blockRows),
      .group_size = narrow(quantization.groupSize),
      .scale = quantization.scale,
      .zero_point = narrow_signed(quantization.zeroPoint),
      .scale_buffer = [self handleOf:quantization.scaleBuffer],
      .scale_offset = quantization.scaleOffset,
      .scale_precision = quantization.scalePrecision,
      .rotated = quantization.rotation,
      .zero_point_buffer = [self handleOf:quantization.zeroPointBuffer],
      .zero_point_offset = quantization.zeroPointOffset,
      .zero_point_bytes = narrow(quantization.zeroPointBytes),
      .scale_strides = {strides.batch, strides.heads, strides.rows, strides.columns},
      .mean_buffer = [self handleOf:quantization.meanBuffer],
      .mean_offset = quantization.meanOffset,
  };
  return [self keep:&result length:sizeof result];
}

- (mfa_tensor)viewOf:(MFATensor *)tensor {
  mfa_tensor result = {0};
  if (tensor == nil) return result;
  MFAShape shape = tensor.shape;
  MFAStrides strides = tensor.strides;
  result = (mfa_tensor){
      .buffer = [self handleOf:tensor.buffer],
      .byte_offset = tensor.byteOffset,
      .precision = tensor.precision,
      .shape = {shape.batch, shape.heads, shape.rows, shape.columns},
      .strides = {strides.batch, strides.heads, strides.rows, strides.columns},
      .quantization = [self quantizationOf:tensor.quantization],
  };
  return result;
}

- (const mfa_attention_options *)optionsOf:(MFAAttentionOptions *)options {
  if (options == nil) return NULL;
  mfa_attention_options result = {
      .struct_size = sizeof result,
      .flags = options.flags,
      .softmax_scale = options.softmaxScale,
      .softcap = options.softcap,
      .alignment = options.alignment,
      .compute = options.compute,
      .window_left = options.windowLeft,
      .window_right = options.windowRight,
      .mask = [self viewOf:options.mask],
      .alibi_slopes = [self viewOf:options.alibiSlopes],
      .sinks = [self viewOf:options.sinks],
      .sequence_count = narrow(options.sequenceCount),
      .cu_seqlens_q = [self handleOf:options.cuSeqlensQ],
      .cu_seqlens_q_offset = options.cuSeqlensQOffset,
      .cu_seqlens_k = [self handleOf:options.cuSeqlensK],
      .cu_seqlens_k_offset = options.cuSeqlensKOffset,
  };
  return [self keep:&result length:sizeof result];
}

- (mfa_forward_desc)forwardOf:(MFAForward *)forward {
  mfa_forward_desc result = {
      .struct_size = sizeof result,
      .query = [self viewOf:forward.query],
      .key = [self viewOf:forward.key],
      .value = [self viewOf:forward.value],
      .output = [self viewOf:forward.output],
      .logsumexp = [self viewOf:forward.logsumexp],
      .options = [self optionsOf:forward.options],
  };
  return result;
}

- (mfa_backward_desc)backwardOf:(MFABackward *)backward {
  mfa_backward_desc result = {
      .struct_size = sizeof result,
      .flags = backward.flags,
      .query = [self viewOf:backward.query],
      .key = [self viewOf:backward.key],
      .value = [self viewOf:backward.value],
      .output = [self viewOf:backward.output],
      .grad_output = [self viewOf:backward.gradOutput],
      .logsumexp = [self viewOf:backward.logsumexp],
      .d_values = [self viewOf:backward.dValues],
      .grad_query = [self viewOf:backward.gradQuery],
      .grad_key = [self viewOf:backward.gradKey],
      .grad_value = [self viewOf:backward.gradValue],
      .grad_mask = [self viewOf:backward.gradMask],
      .grad_sinks = [self viewOf:backward.gradSinks],
      .options = [self optionsOf:backward.options],
  };
  return result;
}

@end
