"""For scripts that run llama-cpp-python's own code: its weights as they stand in the file, as our engine has them.

That code has no option for it, and repacked for AMX llama.cpp crashes where a virtual machine's processor names AMX and its kernel does not allow it.
"""

PRELUDE = """
import llama_cpp.llama_cpp as low

made = low.llama_model_default_params

def params():
    result = made()
    result.use_extra_bufts = False
    return result

low.llama_model_default_params = params
"""
