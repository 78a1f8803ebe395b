import Foundation
import Metal
import MetalAttention

/// What a device's compiler says of texts.
package enum CompiledTexts {
  package struct Failure: Sendable {
    package let name: String
    package let reason: String
  }

  private final class Failures: @unchecked Sendable {  // every access holds the lock
    private let lock = NSLock()
    private var list: [Failure] = []
    func add(_ failure: Failure) { lock.withLock { list.append(failure) } }
    var all: [Failure] { lock.withLock { list.sorted { $0.name < $1.name } } }
  }

  private struct Handle: @unchecked Sendable {  // Metal's devices may be used from any thread
    let device: any MTLDevice
  }

  /// Compiles texts, several at once, with the options of the driver; returns those that are refused, or lack a
  /// function.
  package static func failures(_ texts: [NamedText], on device: any MTLDevice) -> [Failure] {
    let (found, handle) = (Failures(), Handle(device: device))
    DispatchQueue.concurrentPerform(iterations: texts.count) { i in
      let text = texts[i]
      do {
        let library = try handle.device.makeLibrary(source: text.source, options: compileOptions())
        for function in text.functions where !library.functionNames.contains(function) {
          found.add(Failure(name: text.name, reason: "the library has no function '\(function)'"))
        }
      } catch {
        found.add(Failure(name: text.name, reason: "\(error)"))
      }
    }
    return found.all
  }
}
