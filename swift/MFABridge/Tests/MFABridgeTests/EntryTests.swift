import Foundation
import XCTest

/// What is true of every function of the header, read in the sources: the threads that call them cannot show it here.
final class EntryTests: XCTestCase {
  private static let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    .appendingPathComponent("../../Sources/MFABridge").standardized

  /// Everything that can make objects of Metal runs in an autorelease pool: `guarded` has one, and the others return
  /// static text or call one that has.
  func testEveryEntryHasAnAutoreleasePool() throws {
    let edge = try String(contentsOf: Self.folder.appendingPathComponent("Edge.swift"), encoding: .utf8)
    let guarded = try XCTUnwrap(edge.range(of: "func guarded("))
    let body = edge[guarded.lowerBound...].prefix { $0 != "}" }
    XCTAssertTrue(body.contains("autoreleasepool {"), "\(body)")

    let allowed = ["mfa_error_string", "mfa_last_error"]
    var entries = 0
    for file in try FileManager.default.contentsOfDirectory(atPath: Self.folder.path) where file.hasSuffix(".swift") {
      let text = try String(contentsOf: Self.folder.appendingPathComponent(file), encoding: .utf8)
      for entry in text.components(separatedBy: "@_cdecl(\"").dropFirst() {
        let name = entry.prefix { $0 != "\"" }
        entries += 1
        let calls = ["guarded {", "create(context", "createContextOn(0"]
        XCTAssertTrue(
          allowed.contains(String(name)) || calls.contains { entry.contains($0) }, "\(file): \(name) has no pool")
      }
    }
    XCTAssertGreaterThan(entries, 30)
  }
}
