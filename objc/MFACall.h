/* Inside MFABridge: from Metal buffers and views to what mfa.h takes. Not for programs. */
#import "MFABridge.h"

/* A Metal buffer as the driver knows it. Both live as long as this object. */
@interface MFAHandle : NSObject {
 @private
  id<MTLBuffer> _buffer;
  void *_handle;
}
/* Nil if the driver refuses, and then *status says why. */
- (instancetype)initWithBuffer:(id<MTLBuffer>)buffer context:(void *)context status:(int32_t *)status;
@property(nonatomic, readonly) id<MTLBuffer> buffer;
@property(nonatomic, readonly) void *handle;
@end

/* The buffers and structs of one call. What its methods return is valid as long as it lives. */
@interface MFACall : NSObject {
 @private
  void *_context;
  NSMutableArray *_handles;
  NSMutableArray *_structs;
  int32_t _status;
}
- (instancetype)initWithContext:(void *)context;

/* The first failure to hand a buffer to the driver; MFA_SUCCESS if there was none. */
@property(nonatomic, readonly) int32_t status;

/* NULL for nil. */
- (void *)handleOf:(id<MTLBuffer>)buffer;
- (MFAHandle *)keptHandleOf:(id<MTLBuffer>)buffer;

/* The absent tensor for nil. */
- (mfa_tensor)viewOf:(MFATensor *)tensor;
/* NULL for nil. */
- (const mfa_attention_options *)optionsOf:(MFAAttentionOptions *)options;
- (mfa_forward_desc)forwardOf:(MFAForward *)forward;
- (mfa_backward_desc)backwardOf:(MFABackward *)backward;
@end
