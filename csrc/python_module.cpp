// `import torchrec_gr._C` loads the library, which registers the ops. There is nothing in it to
// call from Python: torch.ops.torchrec_gr has the ops, and a server without Python has them too.
#include <Python.h>

extern "C" PyObject* PyInit__C() {
  static PyModuleDef module{};
  module.m_base = PyModuleDef_HEAD_INIT;
  module.m_name = "_C";
  return PyModule_Create(&module);
}
