// swift-tools-version: 6.0
import PackageDescription

// `import Metal` is Apple's framework on Apple platforms, and a Metal device in software on Linux.
let metal = Target.Dependency.product(
  name: "SoftwareMetal", package: "SoftwareMetal", condition: .when(platforms: [.linux]))

// The software device counts, and says what it found: code that asks it stands under `#if SOFTWARE_METAL`.
// AS_ON_APPLE=1 builds as on a Mac, without that.
let isApple = Context.environment["AS_ON_APPLE"] != nil
let counted: [SwiftSetting] = isApple ? [] : [.define("SOFTWARE_METAL", .when(platforms: [.linux]))]

// Tests compute every result again in float64, and write thousands of kernels' texts. In debug builds both are
// optimised, with all that debug builds check.
let optimized: [SwiftSetting] =
  isApple ? [] : [.unsafeFlags(["-O", "-assert-config", "Debug"], .when(configuration: .debug))]

// Without CoreGraphics MTLCreateSystemDefaultDevice() returns nil in a command-line program.
let device: [LinkerSetting] = [.linkedFramework("CoreGraphics", .when(platforms: [.macOS]))]

let package = Package(
  name: "MFABridge",
  platforms: [.macOS(.v14), .iOS(.v17)],
  products: [
    .library(name: "MFABridge", type: .dynamic, targets: ["MFABridge"]),
    .library(name: "MFABridgeStatic", type: .static, targets: ["MFABridge"]),
    .library(name: "MetalAttention", targets: ["MetalAttention"]),
    .library(name: "AttentionKernels", targets: ["AttentionKernels"]),
  ],
  dependencies: [.package(path: "../SoftwareMetal")],
  targets: [
    // MARK: Kernel generator: no device, no Metal
    .target(name: "AttentionKernels", swiftSettings: optimized),
    .testTarget(
      name: "AttentionKernelsTests", dependencies: ["AttentionKernels", "MetalAttention", "TestSupport", metal],
      exclude: ["Golden"],
      swiftSettings: optimized + counted),

    // MARK: Runtime
    .target(name: "MetalAttention", dependencies: ["AttentionKernels", metal], linkerSettings: device),
    .testTarget(name: "MetalAttentionTests", dependencies: ["MetalAttention", "TestSupport", metal]),

    .target(name: "TestSupport", dependencies: ["MetalAttention"], path: "Tests/TestSupport"),

    // MARK: C bridge
    .target(name: "CMFA"),
    .target(name: "MFABridge", dependencies: ["MetalAttention", "CMFA", metal]),
    .testTarget(
      name: "MFABridgeTests", dependencies: ["MFABridge", "CMFA", "MetalAttention", "TestSupport", metal],
      swiftSettings: counted),

    // MARK: Every text that the driver can compile
    .target(
      name: "EveryText", dependencies: ["AttentionKernels", "MetalAttention", metal], swiftSettings: optimized),
    .executableTarget(name: "every-text", dependencies: ["EveryText", "MetalAttention", metal]),
    .testTarget(
      name: "EveryTextTests", dependencies: ["EveryText", "MetalAttention", metal], swiftSettings: optimized),

    // MARK: Counters of the software device
    .executableTarget(
      name: "MetalReport", dependencies: ["MetalAttention", "AttentionKernels", metal], swiftSettings: counted),

    // MARK: What the driver would run, for other devices
    .executableTarget(name: "LaunchRecorder", dependencies: ["MetalAttention", metal]),
  ],
  swiftLanguageModes: [.v6]
)
