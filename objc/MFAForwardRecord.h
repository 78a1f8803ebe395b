/* Inside MFABridge: the contents of a record. Not for programs. */
#import "MFABridge.h"

@interface MFAForwardRecord (Contents)
/* operands: the MFAHandles of query, key and value; storage: of the three. */
+ (instancetype)recordOf:(NSArray *)operands storage:(const MFAStorage *)storage dimensions:(MFADimensions)dimensions;
- (void *)operand:(int)index;
- (MFAStorage)storage:(int)index;
- (MFADimensions)dimensions;
@end
