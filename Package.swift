// swift-tools-version: 6.0
import PackageDescription

// For Swift packages that name this repository as a dependency: SwiftPM looks for a manifest in its root. The same
// targets as in swift/MFABridge and swift/SoftwareMetal, whose own manifests have the tests as well.
let bridge = "swift/MFABridge/Sources/"
let software = "swift/SoftwareMetal/Sources/"

// `import Metal` is Apple's framework on Apple platforms, and a Metal device in software on Linux.
#if os(Linux)
  let metal: [Target.Dependency] = ["Metal"]
  let metalTargets: [Target] = [
    .target(
      name: "CSoftwareMetal", path: software + "CSoftwareMetal", exclude: ["device"],
      linkerSettings: [.linkedLibrary("dl", .when(platforms: [.linux]))]),
    .target(name: "Metal", dependencies: ["CSoftwareMetal"], path: software + "Metal"),
  ]
  let metalProducts: [Product] = [.library(name: "SoftwareMetal", targets: ["Metal"])]
#else
  let metal: [Target.Dependency] = []
  let metalTargets: [Target] = []
  let metalProducts: [Product] = []
#endif

// Without CoreGraphics MTLCreateSystemDefaultDevice() returns nil in a command-line program.
let device: [LinkerSetting] = [.linkedFramework("CoreGraphics", .when(platforms: [.macOS]))]

let package = Package(
  name: "umfa",
  platforms: [.macOS(.v14), .iOS(.v17)],
  products: [
    .library(name: "MFABridge", type: .dynamic, targets: ["MFABridge"]),
    .library(name: "MFABridgeStatic", type: .static, targets: ["MFABridge"]),
    .library(name: "MetalAttention", targets: ["MetalAttention"]),
    .library(name: "AttentionKernels", targets: ["AttentionKernels"]),
  ] + metalProducts,
  targets: [
    .target(name: "AttentionKernels", path: bridge + "AttentionKernels"),
    .target(
      name: "MetalAttention", dependencies: ["AttentionKernels"] + metal, path: bridge + "MetalAttention",
      linkerSettings: device),
    .target(name: "CMFA", path: bridge + "CMFA"),
    .target(name: "MFABridge", dependencies: ["MetalAttention", "CMFA"] + metal, path: bridge + "MFABridge"),
  ] + metalTargets,
  swiftLanguageModes: [.v6],
  cxxLanguageStandard: .cxx17
)
