"""The page's texts, one module a language; the keys are the same in all of them."""
