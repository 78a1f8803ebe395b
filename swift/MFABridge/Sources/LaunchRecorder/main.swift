// What the driver would run for calls, written down: `LaunchRecorder CALLS FOLDER` reads a JSON list of calls, and
// writes FOLDER/texts/*.metal and FOLDER/launches.json. Nothing is computed, and memory that a call names is only
// reserved: calls may be of any size.
import Foundation
import Metal
import MetalAttention

#if os(Linux)
  /// What is written for a call: its buffers are the call's own, then those that the driver made.
  struct Record: Encodable {
    struct Buffer: Encodable {
      let size: Int
      /// What the driver wrote, in Base64; nil: nothing, the memory may hold anything.
      let contents: String?
    }
    struct Launch: Encodable {
      let text, entry: String
      let grid: [Int]
      let threads: Int
      /// By index: number of a buffer and offset in bytes.
      let buffers: [String: [Int]]
      /// By index, in Base64: what setBytes was given.
      let bytes: [String: String]
      /// By index.
      let threadgroupMemory: [String: Int]
    }
    let name: String
    let buffers: [Buffer]
    let launches: [Launch]
    /// Why the driver refused the call.
    let refusal: String?
  }

  /// Texts by their contents, named after their kernels in order of appearance.
  struct Texts {
    private(set) var names: [String: String] = [:]
    private var counts: [String: Int] = [:]

    mutating func name(_ source: String, _ entry: String) -> String {
      if let found = names[source] { return found }
      let number = counts[entry, default: 0]
      counts[entry] = number + 1
      let name = "\(entry)_\(number)"
      names[source] = name
      return name
    }
  }

  func record(
    _ call: Call, _ texts: inout Texts, _ contexts: inout [Int: (RecordingDevice, AttentionContext)]
  ) throws
    -> Record
  {
    if contexts[call.family] == nil {
      guard let family = MTLGPUFamily(rawValue: 1000 + call.family) else {
        throw RecorderError("\(call.name): there is no family \(call.family)")
      }
      let device = RecordingDevice(family: family)
      contexts[call.family] = (device, try AttentionContext(device: AttentionDevice.of(device)))
    }
    guard let (device, context) = contexts[call.family] else { throw RecorderError("no context") }
    device.begin()
    var refusal: String?
    do { try LiveCall(call, on: device).run(on: context) } catch let error as AttentionError { refusal = "\(error)" }
    let launches = device.launches.map { launch in
      precondition(launch.threads.height == 1 && launch.threads.depth == 1, "threadgroups have one dimension")
      func named<Value, Result>(_ table: [Int: Value], _ value: (Value) -> Result) -> [String: Result] {
        Dictionary(uniqueKeysWithValues: table.map { (String($0.key), value($0.value)) })
      }
      return Record.Launch(
        text: texts.name(launch.source, launch.entry), entry: launch.entry,
        grid: [launch.threadgroups.width, launch.threadgroups.height, launch.threadgroups.depth],
        threads: launch.threads.width, buffers: named(launch.buffers) { [$0.buffer.id, $0.offset] },
        bytes: named(launch.bytes) { Data($0).base64EncodedString() },
        threadgroupMemory: named(launch.threadgroupMemory) { $0 })
    }
    let buffers = device.buffers.enumerated().map { index, buffer in
      let written = index < call.buffers.count ? nil : buffer.written
      return Record.Buffer(size: buffer.length, contents: written.map { Data($0).base64EncodedString() })
    }
    return Record(name: call.name, buffers: buffers, launches: launches, refusal: refusal)
  }

  do {
    let arguments = CommandLine.arguments
    guard arguments.count == 3 else { throw RecorderError("usage: LaunchRecorder CALLS FOLDER") }
    let folder = URL(fileURLWithPath: arguments[2])
    let calls = try JSONDecoder().decode([Call].self, from: Data(contentsOf: URL(fileURLWithPath: arguments[1])))
    var texts = Texts()
    var contexts: [Int: (RecordingDevice, AttentionContext)] = [:]
    let records = try calls.map { try record($0, &texts, &contexts) }
    try FileManager.default.createDirectory(
      at: folder.appendingPathComponent("texts"), withIntermediateDirectories: true)
    for (source, name) in texts.names {
      try source.write(
        to: folder.appendingPathComponent("texts/\(name).metal"), atomically: true, encoding: .utf8)
    }
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys]
    try encoder.encode(records).write(to: folder.appendingPathComponent("launches.json"))
    print("\(records.count) calls, \(texts.names.count) texts")
  } catch {
    FileHandle.standardError.write(Data("error: \(error)\n".utf8))
    exit(1)
  }
#else
  print("Launches are recorded on Linux, where a Metal device can be written.")
#endif
