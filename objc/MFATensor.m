#import "MFATensor.h"

#import "MFAMemory.h"

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
  MFAQuantization *result = MFA_AUTORELEASE([[self alloc] init]);
  result.scale = scale;
  result.zeroPoint = zeroPoint;
  return result;
}

+ (instancetype)quantizationWithGranularity:(MFAGranularity)granularity scales:(id<MTLBuffer>)scales {
  MFAQuantization *result = MFA_AUTORELEASE([[self alloc] init]);
  result.granularity = granularity;
  result.scaleBuffer = scales;
  return result;
}

- (void)dealloc {
  MFA_RELEASE(_scaleBuffer);
  MFA_RELEASE(_zeroPointBuffer);
  MFA_RELEASE(_meanBuffer);
  MFA_DEALLOC();
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
  MFATensor *result = MFA_AUTORELEASE([[self alloc] init]);
  result.buffer = buffer;
  result.precision = precision;
  result.shape = shape;
  result.strides = MFAContiguousStrides(shape);
  return result;
}

- (void)dealloc {
  MFA_RELEASE(_buffer);
  MFA_RELEASE(_quantization);
  MFA_DEALLOC();
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
  return MFA_AUTORELEASE([[self alloc] init]);
}

- (instancetype)init {
  self = [super init];
  if (self != nil) _windowLeft = _windowRight = -1;
  return self;
}

- (void)dealloc {
  MFA_RELEASE(_mask);
  MFA_RELEASE(_alibiSlopes);
  MFA_RELEASE(_sinks);
  MFA_RELEASE(_cuSeqlensQ);
  MFA_RELEASE(_cuSeqlensK);
  MFA_DEALLOC();
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
  MFA_RELEASE(_query);
  MFA_RELEASE(_key);
  MFA_RELEASE(_value);
  MFA_RELEASE(_output);
  MFA_RELEASE(_logsumexp);
  MFA_RELEASE(_options);
  MFA_DEALLOC();
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
  MFA_RELEASE(_query);
  MFA_RELEASE(_key);
  MFA_RELEASE(_value);
  MFA_RELEASE(_output);
  MFA_RELEASE(_gradOutput);
  MFA_RELEASE(_logsumexp);
  MFA_RELEASE(_dValues);
  MFA_RELEASE(_gradQuery);
  MFA_RELEASE(_gradKey);
  MFA_RELEASE(_gradValue);
  MFA_RELEASE(_gradMask);
  MFA_RELEASE(_gradSinks);
  MFA_RELEASE(_options);
  MFA_DEALLOC();
}

@end
