/// The text of a kernel and what the launch needs to know of it.
struct KernelText {
  let source: String
  let tiles: Tiles
  let threadgroupMemoryBytes: Int

  init(descriptor: AttentionKernelDescriptor, profile: DeviceProfile) throws(AttentionKernelError) {
    tiles = Tiles(strips: 4, columnSplits: 1, block: 32)
    threadgroupMemoryBytes = 0
    source = AttentionArguments.structText
  }
}
