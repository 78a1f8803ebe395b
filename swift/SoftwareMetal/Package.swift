// swift-tools-version: 6.0
import PackageDescription

// On Linux this package is the module `Metal`: a Metal device in software. Depend on it with
// condition: .when(platforms: [.linux]); on Apple platforms `import Metal` then means Apple's framework.
// AS_ON_APPLE=1 hides what the module has beyond Apple's, to see whether a package builds without it.
let isApple = Context.environment["AS_ON_APPLE"] != nil

let package = Package(
  name: "SoftwareMetal",
  products: [
    .library(name: "SoftwareMetal", targets: ["Metal"])
  ],
  targets: [
    .target(
      name: "CSoftwareMetal",
      exclude: ["device"],
      // The front end reads every text, in tests too: it is optimised in debug builds as well.
      cxxSettings: [.unsafeFlags(["-O2"], .when(configuration: .debug))],
      linkerSettings: [.linkedLibrary("dl", .when(platforms: [.linux]))]
    ),
    .target(
      name: "Metal", dependencies: ["CSoftwareMetal"], swiftSettings: isApple ? [.define("AS_ON_APPLE")] : []),
    .testTarget(name: "MetalTests", dependencies: ["Metal"]),
  ],
  swiftLanguageModes: [.v6],
  cxxLanguageStandard: .cxx17
)
