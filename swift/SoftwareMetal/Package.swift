// swift-tools-version: 6.0
import PackageDescription

// On Linux this package is the module `Metal`: a Metal device in software. Depend on it with
// condition: .when(platforms: [.linux]); on Apple platforms `import Metal` then means Apple's framework.
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
    .target(name: "Metal", dependencies: ["CSoftwareMetal"]),
    .testTarget(name: "MetalTests", dependencies: ["Metal"]),
  ],
  swiftLanguageModes: [.v6],
  cxxLanguageStandard: .cxx17
)
