// Writes every text that the driver can hand to Metal's compiler, or compiles them. See `usage`.
import EveryText
import Foundation
import Metal
import MetalAttention

let usage = """
  usage: every-text [--values] [--also FOLDER]… DIR
         every-text [--values] [--also FOLDER]… --compile
         every-text --device

  Writes DIR/NAME.metal for every text, and DIR/index.json, which says of each what it is and how it is launched.
  With --compile, hands each to the default device's compiler instead, with the options of the driver.

  With --device, says whether a device of this machine can run the kernels: "NAME" or "none: REASON".

  --values: fewer texts, in which every value of every option occurs; otherwise every pair of values does.
  --also FOLDER: the files *.metal.txt of a folder too, as golden-NAME.
  """

func fail(_ message: String) -> Never {
  FileHandle.standardError.write(Data("\(message)\n".utf8))
  exit(2)
}

func write(_ texts: [NamedText], to folder: String) throws {
  try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
  for text in texts {
    try text.source.write(toFile: "\(folder)/\(text.name).metal", atomically: false, encoding: .utf8)
  }
  let index = try JSONSerialization.data(
    withJSONObject: texts.map(\.record), options: [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes])
  try index.write(to: URL(fileURLWithPath: "\(folder)/index.json"))
}

extension NamedText {
  /// The text's entry in the index.
  var record: [String: Any] {
    var record: [String: Any] = [
      "name": name, "file": "\(name).metal", "functions": functions,
      "options": Dictionary(options.map { ($0.option, $0.value) }) { a, _ in a },
    ]
    guard let kernel else { return record }
    record["threadsPerThreadgroup"] = kernel.threadsPerThreadgroup
    record["threadgroupMemoryBytes"] = kernel.threadgroupMemoryBytes
    record["bindings"] = kernel.bindings.map {
      ["name": $0.role.name, "index": $0.index, "isWritten": $0.isWritten] as [String: Any]
    }
    return record
  }
}

var (extent, folders, compiles, target) = (TextList.Extent.pairs, [String](), false, String?.none)
var arguments = CommandLine.arguments.dropFirst()
while let argument = arguments.popFirst() {
  switch argument {
  case "--values": extent = .values
  case "--compile": compiles = true
  case "--also":
    guard let folder = arguments.popFirst() else { fail(usage) }
    folders.append(folder)
  case "--device":
    print(AttentionDevice.unavailable.map { "none: \($0)" } ?? AttentionDevice.all().first?.metal.name ?? "none")
    exit(0)
  case "--help":
    print(usage)
    exit(0)
  default:
    if target != nil || argument.hasPrefix("-") { fail(usage) }
    target = argument
  }
}
if compiles == (target != nil) { fail(usage) }

do {
  let list = TextList(extent)
  let texts = try list.texts + folders.flatMap(NamedText.golden)
  if let target {
    try write(texts, to: target)
    print("\(texts.count) texts in \(target); \(list.repeated) more kernels have the text of another")
  } else {
    guard let device = MTLCreateSystemDefaultDevice() else { fail("no Metal device") }
    let failures = CompiledTexts.failures(texts, on: device)
    for failure in failures { print("\(failure.name): \(failure.reason)") }
    print("\(texts.count) texts on \(device.name): \(failures.count) refused")
    exit(failures.isEmpty ? 0 : 1)
  }
} catch {
  fail("\(error)")
}
