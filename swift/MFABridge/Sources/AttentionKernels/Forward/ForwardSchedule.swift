extension AttentionArguments {
  /// The schedule of a forward call, and its number of splits. Pure: depends on the sizes and the profile alone.
  ///
  /// The decode schedule pays when the query heads of a key head fit in few strips of rows; splitting, when there are
  /// fewer threadgroups than the device can run at once and each would still have some hundred keys.
  public func schedule(on profile: DeviceProfile) -> (schedule: AttentionKernelDescriptor.Schedule, splits: Int) {
    let group = max(Int(headsPerKeyHead), 1), folded = group * Int(queryRows)
    guard folded <= ForwardTuning.decodeRows else { return (.prefill, 1) }
    let threadgroups = Int(batches) * (Int(heads) / group) * ((folded + 7) / 8)
    let wanted = ForwardTuning.threadgroupsPerCore * profile.cores / max(threadgroups, 1)
    let splits = min(wanted, Int(keyRows) / ForwardTuning.keysPerSplit)
    return splits > 1 ? (.decodeSplit, splits) : (.decode, 1)
  }
}
