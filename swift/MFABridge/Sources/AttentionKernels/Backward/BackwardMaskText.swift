/// The gradient of an additive mask, P ∘ (dP − D + dL), summed over the dimensions in which the mask is broadcast:
/// those in which `AttentionArguments.maskGradient` has stride 0. A threadgroup computes one part of the gradient and
/// adds its terms in order: the same bits every run, without atomics. S and dP are computed once more for it.
///
/// `AttentionArguments.queryRows` and `.keyRows` are the rows and columns of the gradient, with varlen too.
///
/// See eq. 30 of docs/math.md.
struct BackwardMaskText {
  let descriptor: AttentionKernelDescriptor
  let tiling: BackwardTiling
  let tile: BackwardTileText

  private var block: Int { tiling.tiles.block }
  private var rows: Int { tiling.tiles.rows }

  init(_ descriptor: AttentionKernelDescriptor, _ profile: DeviceProfile) {
    self.descriptor = descriptor
    tiling = BackwardTiling(descriptor, profile)
    var outputs = BackwardTileText.Outputs()
    outputs.weightGradient = true
    outputs.softcapDerivative = false  // the mask is added after the softcap
    var tile = BackwardTileText(descriptor, tiling, outputs, scoreGradient: nil, weightGradient: nil)
    tile.sharesMaskMemory = true
    self.tile = tile
  }

  var kernel: KernelBody {
    var memory = ThreadgroupMemory()
    tile.addMemory(&memory)
    memory.add("float", "sums", rows * block)
    return KernelBody(
      tiles: tiling.tiles, memory: memory, summary: "\(rows) queries and \(block) keys a threadgroup", body: body)
  }

  private var body: String {
    """
    \(tile.tilePointers)
    const uint2 origin = lane_origin(lane);
    \(tiling.tiles.declareStrip)
    const bool sums_batches = args.mask_gradient.batch == 0, sums_heads = args.mask_gradient.head == 0;
    const bool sums_rows = args.mask_gradient.row == 0, sums_columns = args.mask_gradient.column == 0;
    const int column_blocks = sums_columns ? 1 : (int(args.key_rows) + \(block - 1)) / \(block);
    const int row_block = int(group.x) / column_blocks, first_column = int(group.x) % column_blocks * \(block);

    // Sums are written when all loops are done.
    threadgroup uint *mask_shows = (threadgroup uint *)sums;
    \(tile.mask.setup)
    float2 total[\(block / 8)];
    \(Text.unrolled)
    for (ushort n = 0; n < \(block / 8); ++n) total[n] = 0;
    for (uint z = group.z; z < (sums_batches ? args.batches : group.z + 1); ++z) {
      \(RowsText.sequence(descriptor, z: "z"))
      for (uint head = group.y; head < (sums_heads ? args.heads : group.y + 1); ++head) {
        const uint key_head = head / args.heads_per_key_head;
        \(tiling.scoreStreamed.setup)
        \(tiling.weightStreamed.setup)
        \(tile.scoreStrip.setup)
        \(tile.weightStrip.setup)
        for (int index = row_block; index < (sums_rows ? (query_rows + \(rows - 1)) / \(rows) : row_block + 1); \
    ++index) {
          \(tile.rows(index: "index"))
          if (first_row >= query_rows) break;
          \(ofRows)
        }
      }
    }
    \(store)
    """
  }

  private var ofRows: String {
    let start = tiling.scoreStationary.start.map { "(\($0) + row)" } ?? "row"
    return Text.lines(
      tile.scoreStrip.load, tile.weightStrip.load,
      """
      const long query_row = \(start);
      const float l = L[args.L.offset + batch * args.L.batch + head * args.L.head + query_row * args.L.row];
      const float d = D[args.D.offset + batch * args.D.batch + head * args.D.head \
      + query_row * args.D.row]\(tile.lessLogsumexpGradient);
      """,
      tile.range(where: "exists && l != -INFINITY"), tile.scoreMod, tile.scales,
      """
      const int begin = \(tile.rangeBegin("first_row")), end = \(tile.rangeEnd("last_row"));
      const bool meets = first_column < end && first_column + \(block) > begin;
      const int from = sums_columns ? begin : first_column, to = sums_columns ? end : from + meets;
      for (int first = from; first < to; first += \(block)) {
        \(tile.body(
          { _ in "" },
          atEnd: """
            \(Text.unrolled)
            for (ushort n = 0; n < \(block / 8); ++n) total[n] += scores[n].get();
            """))
      }
      """)
  }

  private var store: String {
    """
    \(BackwardTileText.barrier)
    \(when(tiling.splits > 1, "if (part == 0) {"))
    \(Text.unrolled)
    for (ushort n = 0; n < \(block / 8); ++n) {
      sums[(8 * strip + origin.y) * \(block) + 8 * n + origin.x] = total[n].x;
      sums[(8 * strip + origin.y) * \(block) + 8 * n + origin.x + 1] = total[n].y;
    }
    \(when(tiling.splits > 1, "}"))
    \(BackwardTileText.barrier)
    device float *gradient = mask_gradient + args.mask_gradient.offset + group.z * args.mask_gradient.batch \
    + group.y * args.mask_gradient.head;
    const int rows = sums_rows ? 1 : \(rows), columns = sums_columns ? 1 : \(block);
    for (int i = thread_index; i < rows * columns; i += \(tiling.threads)) {
      const int r = i / columns, c = i % columns;
      float sum = 0;
      for (int y = r; y < (sums_rows ? \(rows) : r + 1); ++y) {
        for (int x = c; x < (sums_columns ? \(block) : c + 1); ++x) sum += sums[y * \(block) + x];
      }
      const int query = row_block * \(rows) + r, key = first_column + c;
      if ((sums_rows || query < int(args.query_rows)) && (sums_columns || key < int(args.key_rows))) {
        gradient[query * args.mask_gradient.row + key * args.mask_gradient.column] = sum;
      }
    }
    """
  }
}
