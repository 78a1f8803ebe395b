// The bit sets of the contract. The C edge is compiled with the header and compares (see ContractNumbersTests).

package enum OptionFlag {
  package static let scale: UInt32 = 1
  package static let causal: UInt32 = 2
  package static let window: UInt32 = 4
  static let known = scale | causal | window
}

package enum BackwardFlag {
  package static let dGiven: UInt32 = 1
  package static let clip: UInt32 = 2
  static let known = dGiven | clip
}

package enum QuantizeFlag {
  package static let asymmetric: UInt32 = 1
  package static let smooth: UInt32 = 2
  package static let meanGiven: UInt32 = 4
  package static let scaleGiven: UInt32 = 8
  static let known = asymmetric | smooth | meanGiven | scaleGiven
}
