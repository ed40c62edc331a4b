"""Results to look at: one HTML page that plays a clip's poses, and needs nothing from elsewhere. See docs/viewer.md."""

from diffpose_edge.viewer.clip_result import ClipResult, result_of_bodies
from diffpose_edge.viewer.page import save_view, viewer_html
from diffpose_edge.viewer.result_files import load_result

__all__ = ["ClipResult", "load_result", "result_of_bodies", "save_view", "viewer_html"]
