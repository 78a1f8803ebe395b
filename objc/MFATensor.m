#import "MFATensor.h"

#if __has_feature(objc_arc)
#error "compile with -fno-objc-arc: GNUstep's runtime on Linux has no ARC, and this is the same source"
#endif

MFAShape MFAShapeMake(uint64_t batch, uint64_t heads, uint64_t rows, uint64_t columns) {
  MFAShape shape = {batch, heads, rows, columns};
  return shape;
}

MFAStrides MFAContiguousStrides(MFAShape shape) {
  const uint64_t head = shape.rows * shape.columns;
  MFAStrides strides = {(int64_t)(shape.heads * head), (int64_t)head, (int64_t)shape.columns, 1};
  return strides;
}

@implementation MFAQuantization

@synthesize granularity = _granularity;
@synthesize blockRows = _blockRows;
@synthesize groupSize = _groupSize;
@synthesize scale = _scale;
@synthesize zeroPoint = _zeroPoint;
@synthesize scaleBuffer = _scaleBuffer;
@synthesize scaleOffset = _scaleOffset;
@synthesize scalePrecision = _scalePrecision;
@synthesize scaleStrides = _scaleStrides;
@synthesize rotation = _rotation;
@synthesize zeroPointBuffer = _zeroPointBuffer;
@synthesize zeroPointOffset = _zeroPointOffset;
@synthesize zeroPointBytes = _zeroPointBytes;
@synthesize meanBuffer = _meanBuffer;
@synthesize meanOffset = _meanOffset;

+ (instancetype)quantizationWithScale:(float)scale zeroPoint:(NSInteger)zeroPoint {
  MFAQuantization *result = [[[self alloc] init] autorelease];
  result.scale = scale;
  result.zeroPoint = zeroPoint;
  return result;
}

+ (instancetype)quantizationWithGranularity:(MFAGranularity)granularity scales:(id<MTLBuffer>)scales {
  MFAQuantization *result = [[[self alloc] init] autorelease];
  result.granularity = granularity;
  result.scaleBuffer = scales;
  return result;
}

- (void)dealloc {
  [_scaleBuffer release];
  [_zeroPointBuffer release];
  [_meanBuffer release];
  [super dealloc];
}

@end

@implementation MFATensor

@synthesize buffer = _buffer;
@synthesize byteOffset = _byteOffset;
@synthesize precision = _precision;
@synthesize shape = _shape;
@synthesize strides = _strides;
@synthesize quantization = _quantization;

+ (instancetype)tensorWithBuffer:(id<MTLBuffer>)buffer precision:(MFAPrecision)precision shape:(MFAShape)shape {
  MFATensor *result = [[[self alloc] init] autorelease];
  result.buffer = buffer;
  result.precision = precision;
  result.shape = shape;
  result.strides = MFAContiguousStrides(shape);
  return result;
}

- (void)dealloc {
  [_buffer release];
  [_quantization release];
  [super dealloc];
}

@end

@implementation MFAAttentionOptions

@synthesize flags = _flags;
@synthesize softmaxScale = _softmaxScale;
@synthesize softcap = _softcap;
@synthesize alignment = _alignment;
@synthesize compute = _compute;
@synthesize windowLeft = _windowLeft;
@synthesize windowRight = _windowRight;
@synthesize mask = _mask;
@synthesize alibiSlopes = _alibiSlopes;
@synthesize sinks = _sinks;
@synthesize sequenceCount = _sequenceCount;
@synthesize cuSeqlensQ = _cuSeqlensQ;
@synthesize cuSeqlensQOffset = _cuSeqlensQOffset;
@synthesize cuSeqlensK = _cuSeqlensK;
@synthesize cuSeqlensKOffset = _cuSeqlensKOffset;

+ (instancetype)options {
  return [[[self alloc] init] autorelease];
}

- (instancetype)init {
  self = [super init];
  if (self != nil) _windowLeft = _windowRight = -1;
  return self;
}

- (void)dealloc {
  [_mask release];
  [_alibiSlopes release];
  [_sinks release];
  [_cuSeqlensQ release];
  [_cuSeqlensK release];
  [super dealloc];
}

- (void)setSoftmaxScale:(float)scale {
  _softmaxScale = scale;
  _flags |= MFA_OPTION_SCALE;
}

- (BOOL)causal {
  return (_flags & MFA_OPTION_CAUSAL) != 0;
}

- (void)setCausal:(BOOL)causal {
  _flags = causal ? _flags | MFA_OPTION_CAUSAL : _flags & ~(uint32_t)MFA_OPTION_CAUSAL;
}

- (void)setWindowLeft:(int64_t)positions {
  _windowLeft = positions;
  _flags |= MFA_OPTION_WINDOW;
}

- (void)setWindowRight:(int64_t)positions {
  _windowRight = positions;
  _flags |= MFA_OPTION_WINDOW;
}

@end

@implementation MFAForward

@synthesize query = _query;
@synthesize key = _key;
@synthesize value = _value;
@synthesize output = _output;
@synthesize logsumexp = _logsumexp;
@synthesize options = _options;

- (void)dealloc {
  [_query release];
  [_key release];
  [_value release];
  [_output release];
  [_logsumexp release];
  [_options release];
  [super dealloc];
}

@end

@implementation MFABackward

@synthesize flags = _flags;
@synthesize query = _query;
@synthesize key = _key;
@synthesize value = _value;
@synthesize output = _output;
@synthesize gradOutput = _gradOutput;
@synthesize logsumexp = _logsumexp;
@synthesize dValues = _dValues;
@synthesize gradQuery = _gradQuery;
@synthesize gradKey = _gradKey;
@synthesize gradValue = _gradValue;
@synthesize gradMask = _gradMask;
@synthesize gradSinks = _gradSinks;
@synthesize options = _options;

- (void)dealloc {
  [_query release];
  [_key release];
  [_value release];
  [_output release];
  [_gradOutput release];
  [_logsumexp release];
  [_dValues release];
  [_gradQuery release];
  [_gradKey release];
  [_gradValue release];
  [_gradMask release];
  [_gradSinks release];
  [_options release];
  [super dealloc];
}

@end
