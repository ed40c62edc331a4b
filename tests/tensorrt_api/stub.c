/* A TensorRT library that can do nothing: what its Python bindings look up when they are imported, and no more.

   With it the bindings import where neither a GPU nor TensorRT is, and can be asked which classes and members they have.
   Nothing here is called by an import; called, it answers null, and the bindings say that they could not create anything. */

#define NOTHING(name)                                                                                                  \
    void *name(void) { return 0; }

/* libnvinfer */
NOTHING(createInferBuilder_INTERNAL)
NOTHING(createInferRuntime_INTERNAL)
NOTHING(createInferRefitter_INTERNAL)
NOTHING(getPluginRegistry)
NOTHING(getBuilderPluginRegistry)

/* libnvinfer_plugin */
NOTHING(initLibNvInferPlugins)

/* libnvonnxparser */
NOTHING(createNvOnnxParser_INTERNAL)
NOTHING(createNvOnnxParserRefitter_INTERNAL)
NOTHING(getNvOnnxParserVersion)

/* libnvparsers, which TensorRT 8 alone has: createUffParser(), FieldMap::FieldMap(...), createCaffeParser() and
   shutdownProtobufLibrary(), under the names that C++ gives them. */
NOTHING(_ZN11nvuffparser15createUffParserEv)
NOTHING(_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi)
NOTHING(_ZN14nvcaffeparser117createCaffeParserEv)
NOTHING(_ZN14nvcaffeparser123shutdownProtobufLibraryEv)
