import Foundation

/// A value behind a lock.
package final class Locked<Value>: @unchecked Sendable {  // every access to `stored` holds `lock`
  private let lock = NSLock()
  private var stored: Value

  package init(_ value: Value) { stored = value }

  package func update<Result, Failure: Error>(_ body: (inout Value) throws(Failure) -> Result) throws(Failure) -> Result
  {
    lock.lock()
    defer { lock.unlock() }
    return try body(&stored)
  }

  package var value: Value { update { $0 } }
}
