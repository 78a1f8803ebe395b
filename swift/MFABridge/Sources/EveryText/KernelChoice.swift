import AttentionKernels

/// A kernel that the generator can be asked for.
package struct KernelChoice: Hashable, Sendable {
  package var descriptor: AttentionKernelDescriptor
  package var family: DeviceProfile.Family

  package var profile: DeviceProfile { DeviceProfile(family: family) }
}

/// An option of a kernel, with its values by number.
struct KernelOption: Sendable {
  /// The values of another option beside which this one means something.
  struct Need: Sendable {
    let option: String
    let values: Set<String>
  }

  let name: String
  /// The values in words.
  let values: [String]
  let needs: [Need]
  let set: @Sendable (inout KernelChoice, Int) -> Void
  /// The value that a kernel has; whether it means something is said by `needs`.
  let get: @Sendable (KernelChoice) -> Int?

  /// An option whose values are listed.
  init<Value: Hashable & Sendable>(
    _ name: String, _ values: [Value], needs: [Need] = [],
    get: @escaping @Sendable (KernelChoice) -> Value?, set: @escaping @Sendable (inout KernelChoice, Value) -> Void
  ) {
    self.name = name
    self.values = values.map { "\($0)" }
    self.needs = needs
    self.set = { set(&$0, values[$1]) }
    self.get = { choice in get(choice).flatMap { values.firstIndex(of: $0) } }
  }

  /// An option that is a property of the descriptor.
  init<Value: Hashable & Sendable>(
    _ name: String, _ values: [Value], needs: [Need] = [],
    _ property: WritableKeyPath<AttentionKernelDescriptor, Value> & Sendable
  ) {
    self.init(
      name, values, needs: needs, get: { $0.descriptor[keyPath: property] },
      set: { $0.descriptor[keyPath: property] = $1 })
  }

  /// Of one of the values of this option, for another option to mean something.
  func need(_ isNeeded: (String) -> Bool) -> Need { Need(option: name, values: Set(values.filter(isNeeded))) }
}

extension [KernelOption] {
  /// The value that an option has in a kernel; nil where it means nothing.
  func value(_ option: KernelOption, in choice: KernelChoice) -> Int? {
    let means = option.needs.allSatisfy { need in
      contains { other in
        guard other.name == need.option, let value = other.get(choice) else { return false }
        return need.values.contains(other.values[value])
      }
    }
    return means ? option.get(choice) : nil
  }

  /// What a kernel is, in words: the values of the options that mean something to it.
  func words(_ choice: KernelChoice) -> [(option: String, value: String)] {
    compactMap { option in value(option, in: choice).map { (option.name, option.values[$0]) } }
  }
}
