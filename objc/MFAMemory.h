/* Inside MFABridge: one source for manual and for automatic reference counting. Not for programs. */
#if __has_feature(objc_arc)
#define MFA_RETAIN(object) (object)
#define MFA_RELEASE(object) ((void)(object))
#define MFA_AUTORELEASE(object) (object)
#define MFA_DEALLOC() ((void)0)
/* To the end of its scope, not only until it is named for the last time: others point into it. */
#define MFA_UNTIL_END_OF_SCOPE __attribute__((objc_precise_lifetime))
#else
#define MFA_RETAIN(object) [(object) retain]
#define MFA_RELEASE(object) [(object) release]
#define MFA_AUTORELEASE(object) [(object) autorelease]
#define MFA_DEALLOC() [super dealloc]
#define MFA_UNTIL_END_OF_SCOPE
#endif
