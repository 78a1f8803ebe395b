/*
 * The part of Apple's Metal framework that MFABridge and its examples need, for GNUstep on Linux: devices and buffers.
 * They are those of the driver library that the program is linked with: its devices, its memory. Names,
 * values and behaviour are Apple's; everything else of the framework does not compile.
 */
#import <Foundation/Foundation.h>

typedef NS_OPTIONS(NSUInteger, MTLResourceOptions) {
  MTLResourceStorageModeShared = 0, /* the processor and the device see the same bytes */
};

@protocol MTLDevice;

/* A block of memory. Filled with zeros when new. */
@protocol MTLBuffer <NSObject>
@property(readonly) id<MTLDevice> device;
@property(copy) NSString *label;
- (void *)contents;
- (NSUInteger)length;
@end

@protocol MTLDevice <NSObject>
/* As Apple's: what kind of GPU it is, and not how a driver calls it. */
@property(readonly) NSString *name;
/* The driver's, where it has one. */
@property(readonly) uint64_t registryID;

/* Nil for a length of 0, and where there is no memory. The caller owns the buffer. */
- (id<MTLBuffer>)newBufferWithLength:(NSUInteger)length options:(MTLResourceOptions)options;
/* The same, with a copy of `length` bytes. */
- (id<MTLBuffer>)newBufferWithBytes:(const void *)pointer length:(NSUInteger)length options:(MTLResourceOptions)options;
@end

/* The driver's best device, which the caller owns; nil if it has none. */
extern id<MTLDevice> MTLCreateSystemDefaultDevice(void);

/* All of them; the caller owns the array. */
extern NSArray *MTLCopyAllDevices(void);
