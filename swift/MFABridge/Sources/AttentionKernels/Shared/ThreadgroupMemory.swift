/// The threadgroup variables of a kernel.
struct ThreadgroupMemory {
  private(set) var text = ""
  private(set) var bytes = 0

  mutating func add(_ type: String, _ name: String, _ count: Int) {
    let size =
      switch type {
      case "half", "bfloat": 2
      case "float4": 16
      default: 4
      }
    bytes += (size * count + 15) / 16 * 16
    text += (text.isEmpty ? "" : "\n") + "threadgroup \(type) \(name)[\(count)];"
  }
}
