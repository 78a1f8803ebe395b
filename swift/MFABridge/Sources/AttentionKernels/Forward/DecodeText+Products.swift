extension DecodeText {
  func column(_ fragments: Int) -> String {
    splits > 1 ? "\(8 * fragments) * part + 8 * i + origin.x" : "8 * i + origin.x"
  }

  /// Declares `at`, the lane's key in the n-th 8×8 matrix. A key past the end is masked; the last one is read in its
  /// stead.
  var laneKey: String { "const int at = min(first + 8 * n + int(origin.y), end - 1);" }

  /// A loop over a SIMD group's columns of keys. `use` takes the name of an 8×8 matrix, its index, and its number among
  /// those that are loaded together. `around` takes their count, and wraps the text that loads and uses them.
  func eachMatrix(
    _ operand: OperandText, fragments: Int, around: (_ body: String, _ count: Int) -> String = { body, _ in body },
    use: (_ matrix: String, _ index: String, _ member: Int) -> String
  ) -> String {
    let (name, count) = (operand.name, operand.interleaved)
    let mayEnd = splits > 1 && 8 * fragments * splits > (operand.columns + 7) / 8 * 8
    if count > 1 {
      let load = operand.loadInterleaved(row: "at", matrix: "i")
      let uses = load.pairs.enumerated().map { "\(name).set(\($1));\n\(use(name, $0 == 0 ? "i" : "i + \($0)", $0))" }
        .joined(separator: "\n")
      let body = """
        \(operand.interleavedRow(row: "at", column: splits > 1 ? "\(8 * fragments) * part" : nil))
        \(load.statement)
        simdgroup_matrix_storage<\(operand.element)> \(name);
        \(uses)
        """
      return """
        \(Text.unrolled)
        for (ushort i = 0; i < \(fragments); i += \(count)) {
          \(when(mayEnd, "if (8 * (\(fragments) * part + i) >= \(operand.columns)) break;"))
          \(around(body, count))
        }
        """
    }
    let pair = operand.loadPair(into: name, type: operand.element, row: "at", column: "column")
    // A pair of columns that do not exist is 0.
    let load =
      mayEnd
      ? "if (column < \(operand.columns)) {\n\(pair)\n} else {\n\(name).set(vec<\(operand.element), 2>(0));\n}" : pair
    let body = """
      simdgroup_matrix_storage<\(operand.element)> \(name);
      \(load)
      \(use(name, "i", 0))
      """
    return """
      \(Text.unrolled)
      for (ushort i = 0; i < \(fragments); ++i) {
        const uint column = \(column(fragments));
        \(around(body, 1))
      }
      """
  }

  var multiplyKeys: String {
    let products = eachMatrix(key, fragments: tiling.queryFragments) { matrix, index, _ in
      "scores[n].multiply(\(matrix), q[\(index)]);"
    }
    return """
      \(Text.unrolled)
      for (ushort n = 0; n < \(block / 8); ++n) {
        \(laneKey)
        scores[n].clear();
        \(products)
        scores[n].store(own + 8 * n * 8, 8);
      }
      """
  }

  /// From K Qᵀ, in `own`, to rows of queries, summed over the SIMD groups that share the strip.
  var transposeScores: String {
    guard splits > 1 else {
      return """
        simdgroup_barrier(mem_flags::mem_threadgroup);
        \(Text.unrolled)
        for (ushort n = 0; n < \(block / 8); ++n) scores[n].load(own + 64 * n, 8, true);
        simdgroup_barrier(mem_flags::mem_threadgroup);
        """
    }
    return """
      \(Text.unrolled)
      for (ushort n = 0; n < \(block / 8); ++n) {
        float2 total = 0;
        for (ushort i = 0; i < \(splits); ++i) {
          simdgroup_matrix_storage<float> addend;
          addend.load(scratch + (\(splits) * strip + i) * \(scratch) + 64 * n, 8, true);
          total += addend.get();
        }
        scores[n].set(total);
      }
      """
  }

  var multiplyValues: String {
    let products = eachMatrix(
      value, fragments: tiling.outputFragments,
      around: { body, count in softmax.accumulate(count: count, laneKey + "\n" + body) },
      use: { matrix, _, member in
        Text.lines(when(value.mayBeNonFinite, zeroNonFinite), "piece[\(member)].multiply(scores[n], \(matrix));")
      })
    return """
      \(when(value.mayBeNonFinite, "bool found = false;"))
      \(products)
      \(when(value.mayBeNonFinite, addNonFinite))
      """
  }

  var mayMask: String { softmax.score.hasMask ? "true" : "!whole" }

  /// Zeroes NaN and infinities of V: 0 · NaN must not reach a row for which the key is masked. Bits are selected:
  /// `select` has no overload for bfloat.
  var zeroNonFinite: String {
    let bits = value.element == "float" ? "uint2" : "ushort2"
    return """
      if (\(mayMask)) {
        const bool2 bad = \(OperandText.nonFiniteTest("v.get()", value.element, 2));
        found = found || any(bad);
        v.set(as_type<vec<\(value.element), 2>>(select(as_type<\(bits)>(v.get()), \(bits)(0), bad)));
      }
      """
  }

  var addNonFinite: String {
    let padded = 8 * tiling.outputFragments * splits > value.columns
    let one = { (e: Int) in
      let column = e == 0 ? "column" : "column + 1"
      return """
        \(padded ? "if (\(column) < \(value.columns)) {" : "{")
          const \(value.element) x = \(value.value(row: "first + j", column: column));
          if (\(OperandText.nonFiniteTest("x", value.element, 1))) total[\(e)] += p * float(x);
        }
        """
    }
    return """
      if (\(mayMask) && simd_any(found)) {
        // NaN and infinities reach the rows that see them. Hidden keys weigh -1.
        threadgroup float *seen_weights = weights + simd_index * \(8 * block);
        \(Text.unrolled)
        for (ushort n = 0; n < \(block / 8); ++n) {
          const float2 p = scores[n].get();
          seen_weights[origin.y * \(block) + 8 * n + origin.x] = hidden >> (2 * n) & 1 ? -1.0f : p.x;
          seen_weights[origin.y * \(block) + 8 * n + origin.x + 1] = hidden >> (2 * n) & 2 ? -1.0f : p.y;
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
        \(Text.unrolled)
        for (ushort i = 0; i < \(tiling.outputFragments); ++i) {
          const uint column = \(column(tiling.outputFragments));
          float2 total = output[i].get();
          for (ushort j = 0; j < \(block) && first + j < end; ++j) {
            const float p = seen_weights[origin.y * \(block) + j];
            if (p < 0) continue;
            \(one(0))
            \(one(1))
          }
          output[i].set(total);
        }
      }
      """
  }
}
