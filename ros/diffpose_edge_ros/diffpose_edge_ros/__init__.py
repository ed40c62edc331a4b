"""DiffPose Edge as a ROS 2 package; everything is in ``diffpose_edge.runtime.bridges``."""
