// Errors in the domains and with the codes of Metal, carrying text.

public let MTLLibraryErrorDomain = "MTLLibraryErrorDomain"
public let MTLCommandBufferErrorDomain = "MTLCommandBufferErrorDomain"
public let MTLCommandBufferEncoderInfoErrorKey = "MTLCommandBufferEncoderInfoErrorKey"

public struct MTLLibraryError: CustomNSError, LocalizedError, CustomStringConvertible, Sendable {
  public enum Code: Int, Sendable {
    case unsupported = 1, `internal`, compileFailure, compileWarning, functionNotFound, fileNotFound
  }
  public let code: Code
  public let description: String
  public static var errorDomain: String { MTLLibraryErrorDomain }
  public var errorCode: Int { code.rawValue }
  public var errorDescription: String? { description }
  public var errorUserInfo: [String: Any] { [NSLocalizedDescriptionKey: description] }
}

public struct MTLCommandBufferError: CustomNSError, LocalizedError, CustomStringConvertible, Sendable {
  public enum Code: Int, Sendable {
    case none = 0, `internal`, timeout, pageFault, accessRevoked, notPermitted = 7, outOfMemory, invalidResource,
      memoryless, deviceRemoved, stackOverflow
  }
  public let code: Code
  public let description: String
  let found: SoftwareMetal.Finding?
  public static var errorDomain: String { MTLCommandBufferErrorDomain }
  public var errorCode: Int { code.rawValue }
  public var errorDescription: String? { description }
  public var errorUserInfo: [String: Any] { [NSLocalizedDescriptionKey: description] }

  static func invalid(_ text: String) -> MTLCommandBufferError {
    MTLCommandBufferError(code: .invalidResource, description: text, found: nil)
  }
}
