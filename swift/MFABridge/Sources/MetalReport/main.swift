// The cost of the kernels on a GPU, counted on the software device: prints a page of Markdown. With the argument
// --check, only whether quantized keys and values keep what is promised of them.
import Foundation
import Metal

#if SOFTWARE_METAL
  SoftwareMetal.options.mode = .counted
  SoftwareMetal.options.workers = 1
  do {
    guard let device = MTLCreateSystemDefaultDevice() else {
      throw ReportError(description: "no Metal device: the software device needs clang 19")
    }
    var measurements: [Measurement] = []
    for shape in Shape.all {
      for storage in Storage.all {
        FileHandle.standardError.write(Data("\(shape.name), \(storage.name)\n".utf8))
        measurements.append(try measure(shape, storage, on: device))
      }
    }
    if CommandLine.arguments.dropFirst().contains("--check") {
      let problems = broken(measurements)
      problems.forEach { print($0) }
      print("\(measurements.count) calls; \(problems.count) promises broken")
      exit(problems.isEmpty ? 0 : 1)
    }
    print(page(measurements), terminator: "")
  } catch {
    FileHandle.standardError.write(Data("error: \(error)\n".utf8))
    exit(1)
  }
#else
  print("The counters are the software device's, which is for Linux.")
#endif
