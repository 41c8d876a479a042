"""The web page: a client of the queue (`jobs`), made with Gradio. Nothing here runs a model."""
