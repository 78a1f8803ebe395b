#import "MFAForwardRecord.h"

#include <string.h>

#import "MFACall.h"
#import "MFAMemory.h"

/* The contract keeps the record of a forward call as long as its buffers' handles: this object keeps the handles. */
@implementation MFAForwardRecord

+ (instancetype)recordOf:(NSArray *)operands storage:(const MFAStorage *)storage dimensions:(MFADimensions)dimensions {
  MFAForwardRecord *result = MFA_AUTORELEASE([[self alloc] init]);
  if (result == nil) return nil;
  result->_operands = MFA_RETAIN(operands);
  memcpy(result->_storage, storage, sizeof result->_storage);
  result->_dimensions = dimensions;
  return result;
}

- (void)dealloc {
  MFA_RELEASE(_operands);
  MFA_DEALLOC();
}

- (void *)operand:(int)index {
  MFAHandle *handle = [_operands objectAtIndex:(NSUInteger)index];
  return [handle handle];
}

- (MFAStorage)storage:(int)index {
  return _storage[index];
}

- (MFADimensions)dimensions {
  return _dimensions;
}

@end
