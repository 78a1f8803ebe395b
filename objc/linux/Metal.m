#import <Metal/Metal.h>

#include <string.h>

#include "mfa.h"

@interface MFALinuxDevice : NSObject <MTLDevice> {
 @private
  void *_context;
  uint64_t _registryID;
}
/* Nil if the driver has no such device. */
- (instancetype)initWithIndex:(uint32_t)index;
@end

@interface MFALinuxBuffer : NSObject <MTLBuffer> {
 @private
  id<MTLDevice> _device;
  NSString *_label;
  void *_handle;
  void *_contents;
  NSUInteger _length;
}
/* Nil if the driver has no memory. */
- (instancetype)initWithDevice:(id<MTLDevice>)device context:(void *)context length:(NSUInteger)length;
@end

@implementation MFALinuxBuffer

@synthesize device = _device;
@synthesize label = _label;

- (instancetype)initWithDevice:(id<MTLDevice>)device context:(void *)context length:(NSUInteger)length {
  self = [super init];
  if (self == nil) return nil;
  if (mfa_create_buffer(context, length, &_handle) != MFA_SUCCESS ||
      mfa_buffer_contents(_handle, &_contents) != MFA_SUCCESS) {
    [self release];
    return nil;
  }
  _device = [device retain];
  _length = length;
  return self;
}

- (void)dealloc {
  mfa_destroy_buffer(_handle);
  [_device release];
  [_label release];
  [super dealloc];
}

- (void *)contents {
  return _contents;
}

- (NSUInteger)length {
  return _length;
}

@end

@implementation MFALinuxDevice

@synthesize registryID = _registryID;

- (instancetype)initWithIndex:(uint32_t)index {
  self = [super init];
  if (self == nil) return nil;
  /* A driver of processors has none: any number will do. */
  const int32_t status = mfa_device_registry_id(index, &_registryID);
  if (status == MFA_ERROR_UNSUPPORTED) _registryID = UINT64_C(0x100000283);
  if ((status != MFA_SUCCESS && status != MFA_ERROR_UNSUPPORTED) ||
      mfa_create_context_on(index, &_context) != MFA_SUCCESS) {
    [self release];
    return nil;
  }
  return self;
}

- (NSString *)name {
  return @"Apple M1";
}

- (void)dealloc {
  mfa_destroy_context(_context);
  [super dealloc];
}

- (id<MTLBuffer>)newBufferWithLength:(NSUInteger)length options:(MTLResourceOptions)options {
  (void)options;
  return length == 0 ? nil : [[MFALinuxBuffer alloc] initWithDevice:self context:_context length:length];
}

- (id<MTLBuffer>)newBufferWithBytes:(const void *)pointer length:(NSUInteger)length
                            options:(MTLResourceOptions)options {
  id<MTLBuffer> buffer = pointer == NULL ? nil : [self newBufferWithLength:length options:options];
  if (buffer != nil) memcpy([buffer contents], pointer, length);
  return buffer;
}

@end

id<MTLDevice> MTLCreateSystemDefaultDevice(void) { return [[MFALinuxDevice alloc] initWithIndex:0]; }

NSArray *MTLCopyAllDevices(void) {
  NSMutableArray *devices = [[NSMutableArray alloc] init];
  uint32_t count = 0;
  if (mfa_device_count(&count) != MFA_SUCCESS) count = 0;
  for (uint32_t i = 0; i < count; i++) {
    MFALinuxDevice *device = [[MFALinuxDevice alloc] initWithIndex:i];
    if (device != nil) [devices addObject:device];
    [device release];
  }
  return devices;
}
