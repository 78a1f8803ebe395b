/// The error of a refused or failed operation: a status of the C contract, and the message that says what was wrong,
/// what was found and what was expected.
public struct AttentionError: Error, Equatable, Sendable, CustomStringConvertible {
  /// The statuses of `mfa.h` other than success.
  public enum Status: Int32, Sendable {
    case invalidContext = 1
    case bufferAllocation = 2
    case invalidDimensions = 3
    case kernelExecution = 4
    case invalidArgument = 5
    case unsupported = 6
  }

  public let status: Status
  public let message: String

  package init(_ status: Status, _ message: String) {
    self.status = status
    self.message = message
  }

  public var description: String { message }
}

/// Throws unless `condition` holds. Comparisons with NaN are false, so that NaN is refused.
package func ensure(
  _ condition: Bool, _ status: AttentionError.Status, _ message: @autoclosure () -> String
) throws(AttentionError) {
  if !condition { throw AttentionError(status, message()) }
}
