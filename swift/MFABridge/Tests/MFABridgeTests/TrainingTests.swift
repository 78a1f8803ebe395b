import CMFA
import TestSupport
import XCTest

/// Records of forward calls: what the backward entries know, and when they forget it.
final class TrainingTests: GPUTestCase {
  private struct Buffers {
    let q, k, v, o, l, dO, dQ, d, dK, dV: UnsafeMutableRawPointer
    init(_ session: Session) throws {
      func new() throws -> UnsafeMutableRawPointer { try session.buffer(64) }
      (q, k, v, o, l) = (try new(), try new(), try new(), try new(), try new())
      (dO, dQ, d, dK, dV) = (try new(), try new(), try new(), try new(), try new())
    }
  }

  private func forward(_ session: Session, _ b: Buffers, scale: Float = 0.5) -> Int32 {
    mfa_attention_forward_quantized(
      session.context, b.q, b.k, b.v, b.o, b.l, 1, 4, 4, 1, 4, 0.5, false, 0, 8, 8, 1, 0, scale, 0, 0.25, 1, false,
      false,
      false, false)
  }

  private func query(_ session: Session, _ b: Buffers, rows: UInt32 = 4) -> Int32 {
    mfa_attention_backward_query_quantized(
      session.context, b.q, b.k, b.v, b.dO, b.l, b.dQ, b.d, 1, rows, 4, 1, 4, 1, 0)
  }

  private func keyValue(_ session: Session, _ b: Buffers, kScale: Float = 0.5) -> Int32 {
    mfa_attention_backward_kv_quantized(
      session.context, b.q, b.k, b.v, b.dO, b.l, b.d, b.dK, b.dV, 1, 4, 4, 1, 4, 1, 0, kScale, 0, 0.25, 1)
  }

  func testRecords() throws {
    let session = try Session(), stranger = try Session()
    let b = try Buffers(session)
    XCTAssertEqual(query(session, b), 5)
    XCTAssert(Session.message.contains("mfa_attention_forward_quantized"), Session.message)
    XCTAssertEqual(forward(session, b), 0, Session.message)
    XCTAssertEqual(query(session, b), 0, Session.message)
    XCTAssertEqual(keyValue(session, b), 0, Session.message)
    XCTAssertEqual(query(stranger, b), 5, "another context knows nothing of it")
    XCTAssertEqual(query(session, b, rows: 3), 5)
    XCTAssert(Session.message.contains("seq_len_q is 3; expected 4"), Session.message)
    XCTAssertEqual(keyValue(session, b, kScale: 2), 5)
    XCTAssert(Session.message.contains("key: scale is 2 and zero point 0; expected 0.5 and 0"), Session.message)
    XCTAssertEqual(forward(session, b, scale: 2), 0, "a later call takes the record's place")
    XCTAssertEqual(keyValue(session, b, kScale: 2), 0, Session.message)
    XCTAssertEqual(mfa_destroy_buffer(b.v), 0)
    XCTAssertEqual(query(session, b), 5, "records go with their buffers")
    XCTAssert(Session.message.contains("no forward call is recorded"), Session.message)
  }

  func testRefusals() throws {
    let session = try Session()
    let b = try Buffers(session)
    XCTAssertEqual(forward(session, b), 0, Session.message)
    XCTAssertEqual(
      mfa_attention_backward_query_quantized(
        session.context, b.q, b.k, b.v, b.dO, b.l, nil, b.d, 1, 4, 4, 1, 4, 1, 0), 5)
    XCTAssert(Session.message.contains("grad_query_ptr"), Session.message)
    XCTAssertEqual(
      mfa_attention_forward(
        session.context, b.q, b.k, b.v, b.o, 1, 4, 4, 1, 4, 1, false, 8, 0, 0, false, false, false, false), 5)
    XCTAssert(Session.message.contains("q_precision is 8"), Session.message)
    XCTAssertEqual(
      mfa_attention_forward(
        session.context, b.q, b.k, b.v, b.o, .max, .max, .max, .max, .max, 1, true, 0, 0, 0, true, true, true, true), 3)
    XCTAssert(Session.message.contains("more elements than can be addressed"), Session.message)
  }
}
