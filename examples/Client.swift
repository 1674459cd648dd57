// A picture to tokens in Swift, with Core ML (iOS 17, macOS 14). The bundle is one for Core ML.
//
// Nothing of this was compiled or run: there is no Mac here. The artifact that it loads is evaluated operation by operation
// in the project's tests, on Linux; on your machine, `vqrae selftest BUNDLE` runs it, and is the place to start.
//
// Core ML has no bytes at a graph's edge. The manifest's `carriers` say what stands for them: `float32` is what is written
// here, whole numbers from 0 to 255. The rule that brings a picture to the bundle's size is in docs/reference/bundle-format.md.

import CoreML

/// RGB bytes, row by row, of exactly the bundle's size, to tokens, row by row.
func encode(bundle: URL, pixels: [UInt8], height: Int, width: Int) async throws -> [Int32] {
    let compiled = try await MLModel.compileModel(at: bundle.appending(path: "encode.mlpackage"))
    let model = try MLModel(contentsOf: compiled)
    let images = try MLMultiArray(shape: [1, height as NSNumber, width as NSNumber, 3], dataType: .float32)
    images.withUnsafeMutableBufferPointer(ofType: Float.self) { buffer, _ in
        for (place, byte) in pixels.enumerated() { buffer[place] = Float(byte) }
    }
    let features = try MLDictionaryFeatureProvider(dictionary: ["images": MLFeatureValue(multiArray: images)])
    let result = try await model.prediction(from: features)
    guard let indices = result.featureValue(for: "indices")?.multiArrayValue else {
        throw CocoaError(.featureUnsupported)
    }
    return (0..<indices.count).map { indices[$0].int32Value }
}
