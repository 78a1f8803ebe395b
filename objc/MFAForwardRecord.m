#import "MFAForwardRecord.h"

#include <string.h>

#import "MFACall.h"

/* The contract keeps the record of a forward call as long as its buffers' handles: this object keeps the handles. */
@implementation MFAForwardRecord

+ (instancetype)recordOf:(NSArray *)operands storage:(const MFAStorage *)storage dimensions:(MFADimensions)dimensions {
  MFAForwardRecord *result = [[[self alloc] init] autorelease];
  if (result == nil) return nil;
  result->_operands = [operands retain];
  memcpy(result->_storage, storage, sizeof result->_storage);
  result->_dimensions = dimensions;
  return result;
}

- (void)dealloc {
  [_operands release];
  [super dealloc];
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
